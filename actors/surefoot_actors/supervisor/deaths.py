"""Who is unhealthy, who is dead, and of what: the cluster's word and the watchdogs' together, told as events."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection
from dataclasses import replace

from surefoot_actors.liveness.server import Condition, LivenessServer
from surefoot_actors.protocol.death_cause import DeathCause
from surefoot_actors.protocol.membership.machine import Event, Lost, Suspected, SuspicionCleared
from surefoot_actors.supervisor.death_reasons import explained
from surefoot_actors.tasks import Tasks

__all__ = ["Deaths"]

# How long a trainer that its watchdog has seen die may wait for the cluster's word, which says more of why; and the other way round, for
# the watchdog knows what it was computing. Both come within milliseconds.
DEATH_REPORT_GRACE_S = 0.25


class Deaths:
    """Used on the supervisor's event loop."""

    def __init__(
        self, liveness: LivenessServer, happen: Callable[[Event], None], tasks: Tasks, injected: Collection[str]
    ) -> None:
        """`injected`: trainers that a fault was done to."""
        self._liveness, self._happen, self._tasks, self._injected = liveness, happen, tasks, injected
        # unix time since which a trainer has not been seen running
        self._unhealthy_since: dict[str, float] = {}
        # those whose watchdog has seen them die
        self._died: set[str] = set()
        # those whose watchdog was given the time to say so
        self._heard_out: set[str] = set()

    def liveness_changed(self, trainer: str, condition: Condition, detail: str) -> None:
        """Make an event of what a watchdog sees."""
        if condition is Condition.RUNNING:
            self._unhealthy_since.pop(trainer, None)
            self._happen(SuspicionCleared(trainer))
        elif condition in (Condition.STOPPED, Condition.SILENT):
            self._unhealthy_since[trainer] = time.time() - self._liveness.unhealthy_s(trainer)
            self._happen(Suspected(trainer, f"{condition}: {detail}"))
        elif condition is Condition.GONE:
            self._died.add(trainer)
            self._tasks.spawn(self._tell_later(Lost(trainer, detail, cause=self._liveness.cause_of_death(trainer))))

    async def _tell_later(self, lost: Lost) -> None:
        await asyncio.sleep(DEATH_REPORT_GRACE_S)
        self._happen(lost)

    def unhealthy_since(self, trainer: str) -> float | None:
        """Since when it was not seen running (unix time), once; None: it was."""
        return self._unhealthy_since.pop(trainer, None)

    def put_off(self, lost: Lost, members: Collection[str]) -> bool:
        """Whether it is told again, with what it was computing: a lost member's watchdog lives that is about to say so."""
        trainer = lost.trainer
        if trainer not in members or trainer in self._died or trainer in self._heard_out:
            return False
        if lost.cause is DeathCause.NODE or not self._liveness.is_linked(trainer):
            return False
        self._tasks.spawn(self._after_its_watchdog(lost))
        return True

    async def _after_its_watchdog(self, lost: Lost) -> None:
        await self._liveness.wait_gone(lost.trainer, DEATH_REPORT_GRACE_S)
        self._heard_out.add(lost.trainer)
        self._happen(lost)

    def explained(self, lost: Lost) -> Lost:
        """Add what the watchdog has said, and what we know."""
        return replace(
            lost,
            reason=explained(lost.reason, self._liveness.killed_by(lost.trainer)),
            computing=self._computing(lost.trainer),
            cause=DeathCause.INJECTED if lost.trainer in self._injected else lost.cause,
        )

    def _computing(self, trainer: str) -> tuple[int, int] | None:
        last = self._liveness.last(trainer)
        if last is None or last.sub_task < 0 or trainer not in self._died:
            return None
        return last.round, last.sub_task
