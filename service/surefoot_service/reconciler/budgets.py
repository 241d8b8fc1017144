"""Budgets: a job that has spent its own is paused, with a checkpoint, and stays so until it has a higher one and is resumed.

What is spent is read from the store, so a control plane that was away pauses what was spent meanwhile as soon as it is back.
"""

from __future__ import annotations

from dataclasses import replace

import structlog

from surefoot.spec import JobState
from surefoot_service.errors import DomainError
from surefoot_service.parts import Service
from surefoot_service.store import commands, usage
from surefoot_service.store.database import StoreAwayError
from surefoot_service.store.overview import Overview
from surefoot_service.wakeups import commands_of, news_of

__all__ = ["keep_budgets"]

log = structlog.get_logger()

_SPENDS = (JobState.STARTING, JobState.RUNNING, JobState.RECOVERING)


async def keep_budgets(service: Service, overview: Overview) -> Overview:
    """Pause every job whose budget is spent; return what is left of the queue to be started."""
    for watched in overview.watched:
        if watched.spec.budget.is_set and watched.job.state in _SPENDS and watched.job.cancel_at is None:
            await _keep(service, watched.job.id)
    limited = [one.job for one in overview.queue if one.spec.budget.is_set]
    paused = {job for job in limited if await _keep(service, job)}
    return replace(overview, queue=tuple(one for one in overview.queue if one.job not in paused))


async def _keep(service: Service, job: str) -> bool:
    """Pause the job if its budget is spent; return whether it was."""
    now = service.now()
    try:
        why = await service.database.read(usage.spent_of, job, service.accounts, service.settings, now)
        if not why:
            return False
        why += f"; raise it with `surefoot budget {job}`, then `surefoot resume {job}`"
        await service.database.write(commands.pause, job, now=now, why=why)
    except DomainError as error:
        # it has ended, or was deleted, meanwhile
        log.info("budget_not_kept", job=job, error=str(error))
        return True
    except StoreAwayError:
        raise
    except Exception:
        # The boundary of one job: whatever it is, the others are kept and overseen, and this one is looked at again in the next pass.
        log.exception("budget_not_kept", job=job)
        return False
    log.warning("budget_spent", job=job, reason=why)
    service.wakeups.wake(commands_of(job), news_of(job))
    return True
