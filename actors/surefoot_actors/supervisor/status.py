"""How the job is, told to people: starting, running, recovering since a loss, recovered."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from pydantic import JsonValue

from surefoot.events import EventKind, LedgerRow
from surefoot.spec import JobState
from surefoot_actors.protocol.membership.machine import Phase
from surefoot_actors.supervisor.ledger_intake import LedgerIntake

__all__ = ["Status"]


class Status:
    """Tells how long a recovery took: from the loss to the first step that a generation after it has committed."""

    def __init__(self, tell: Callable[..., None], rows: LedgerIntake) -> None:
        self._tell, self._rows = tell, rows
        # unix time of the first loss that is not recovered from
        self._lost_at: float | None = None
        # sub-tasks that are computed again since then, at most
        self._again = 0
        # what was told last
        self._state: JobState | None = None

    def tell(self, state: JobState, reason: str) -> None:
        self._state = state
        self._tell(EventKind.STATE, state=state, reason=reason)

    def note_waiting(self, what: str) -> None:
        """Tell as the present state's reason that trainers wait for nodes, and why; empty: no more."""
        if self._state in (JobState.STARTING, JobState.RUNNING, JobState.RECOVERING):
            self.tell(self._state, what or "every trainer has its node")

    def emit(self, kind: EventKind, data: Mapping[str, JsonValue]) -> None:
        """Tell an event of the membership machine, and what it says of the state."""
        self._tell(kind, **data)
        if kind is EventKind.GENERATION:
            self._note_generation(data)

    def note_loss(self, phase: Phase, since: float | None = None) -> None:
        """Take note that a member is lost, as it was at this unix time; None: at this moment."""
        if phase in (Phase.RUNNING, Phase.RESERVING, Phase.COLLECTING):
            self.note_certain_loss(since)

    def note_certain_loss(self, since: float | None = None) -> None:
        """Take note of it whatever the phase."""
        if self._lost_at is None:
            self._lost_at = since or time.time()
            self.tell(JobState.RECOVERING, "a trainer was lost")

    def _note_generation(self, data: Mapping[str, JsonValue]) -> None:
        number, again = data["generation"], data["sub_tasks_again"]
        assert isinstance(number, int)
        assert isinstance(again, int)
        self._again += again
        if self._lost_at is None:
            self.tell(JobState.RUNNING, str(data["reason"]))
        else:
            self._rows.when_generation(number, self._recovered)

    def _recovered(self, row: LedgerRow) -> None:
        """The first step that a generation after a loss has committed."""
        if self._lost_at is None:
            return
        seconds = max(0.0, row.circumstances.at - self._lost_at)
        self._tell(
            EventKind.RECOVERED,
            generation=row.circumstances.generation,
            step=row.result.step,
            seconds=round(seconds, 4),
            at=row.circumstances.at,
            sub_tasks_again=self._again,
        )
        self._lost_at, self._again = None, 0
        self.tell(JobState.RUNNING, "recovered")
