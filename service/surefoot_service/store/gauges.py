"""What Prometheus is told of what is stored: jobs by state, and the newest jobs that go on. It costs what goes on, not what ever ran."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from statistics import fmean

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from surefoot.spec import JobState
from surefoot_service.metrics.instruments import JobCounts
from surefoot_service.metrics.snapshot import JobFacts
from surefoot_service.policy.usage import Amount
from surefoot_service.store import system
from surefoot_service.store.columns import NoNumber
from surefoot_service.store.reading import spec_of
from surefoot_service.store.tables import AttemptRow, JobRow, StepRow

__all__ = ["Stored", "look"]

_GOING_ON = tuple(state for state in JobState if not state.ended)
# so many of its newest steps say how fast a job is
_NEWEST = 16
# trainers of a job that have series of their own
_TRAINERS = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """What is stored of jobs; nothing, where the database is away."""

    # how many there are, by state
    by_state: Mapping[str, int] = field(default_factory=dict)
    # how long the one has waited that has waited longest
    oldest_s: float = 0.0
    # those that go on, as many as were asked for
    jobs: Sequence[JobFacts] = ()
    # how many more of them there are
    unlisted: int = 0


def look(
    session: Session, most: int, counts: Mapping[str, JobCounts], used: Callable[[Session, str], Amount], now: datetime
) -> Stored:
    """Return how many jobs there are, by state, and facts of at most so many of those that go on, the newest."""
    there = JobRow.deleted_at.is_(None)
    counts_by_state = select(JobRow.state, func.count()).where(there).group_by(JobRow.state)
    counted = [(state, number) for state, number in session.execute(counts_by_state)]
    known = {state: number for state, number in counted if state in _KNOWN}
    if strange := sum(number for state, number in counted if state not in _KNOWN):
        known["unknown"] = strange
    going_on = JobRow.state.in_(_GOING_ON)
    rows = session.scalars(select(JobRow).where(there, going_on).order_by(JobRow.number.desc()).limit(most)).all()
    readable = [row for row in rows if not any(isinstance(getattr(row, name), NoNumber) for name in _NUMBERS)]
    attempts = _attempts(session, readable)
    samples = system.live(session, [row.id for row in readable], now, _TRAINERS)
    jobs = [
        replace(
            _facts(session, row, attempts.get(row.id, 0), counts.get(row.id) or JobCounts(), used(session, row.id)),
            system=samples.get(row.id, ()),
        )
        for row in readable
    ]
    total = sum(number for state, number in known.items() if state in _GOING_ON)
    oldest = session.scalar(select(func.min(JobRow.created_at)).where(there, JobRow.state == JobState.QUEUED))
    waited = max(0.0, (now - oldest).total_seconds()) if oldest else 0.0
    return Stored(by_state=known, oldest_s=waited, jobs=jobs, unlisted=max(0, total - len(jobs)))


_KNOWN = frozenset(str(state) for state in JobState)
_NUMBERS = ("trainers", "wanted_trainers", "generation", "steps_done", "num_steps", "checkpoint_step")


def _attempts(session: Session, jobs: Sequence[JobRow]) -> dict[str, int]:
    mine = select(AttemptRow.job, func.max(AttemptRow.n)).where(AttemptRow.job.in_([job.id for job in jobs]))
    newest = session.execute(mine.group_by(AttemptRow.job)).all()
    return {str(job): int(n) for job, n in newest}


def _facts(session: Session, job: JobRow, attempts: int, counts: JobCounts, used: Amount) -> JobFacts:
    spec = spec_of(job).spec
    return JobFacts(
        id=job.id,
        name=spec.name,
        state=job.state,
        trainers=job.trainers,
        wanted_trainers=job.wanted_trainers,
        generation=job.generation,
        attempts=attempts,
        steps_done=job.steps_done,
        batch_size=spec.batch_size,
        num_steps=job.num_steps,
        checkpoint_step=job.checkpoint_step,
        step_s=_step_s(session, job.id) if job.trainers else None,
        trainer_s=used.trainer_s,
        cost=used.cost if used.priced_s else None,
        counts=counts,
    )


def _step_s(session: Session, job: str) -> float | None:
    """Seconds a step, of the newest ones."""
    newest = select(StepRow.row).where(StepRow.job == job).order_by(StepRow.step.desc()).limit(_NEWEST)
    told = [seconds for row in session.scalars(newest) if (seconds := _seconds(row)) is not None]
    return fmean(told) if told else None


def _seconds(row: str) -> float | None:
    try:
        seconds = float(json.loads(row)["circumstances"]["seconds"])
    except (ValueError, TypeError, KeyError, RecursionError):
        return None  # of another version
    return seconds if 0 < seconds < 1e9 else None
