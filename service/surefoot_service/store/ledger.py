"""The ledger in the store: each step once, with the attempt that told it; whoever tells another result is found out."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import structlog
from sqlalchemy import bindparam, insert, select
from sqlalchemy.orm import Session, aliased

from surefoot.events import LedgerRow, Result
from surefoot_service.store.reading import ledger_row
from surefoot_service.store.tables import JobRow, StepRow

__all__ = ["Contradiction", "are_stored", "counted_on", "take_rows"]

log = structlog.get_logger()

_LONGEST = 1000
# what a row takes beside its JSON
ROW_BYTES = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Contradiction:
    """A step that was told with two results: one of them is not the run's."""

    step: int
    # who told the stored row; None: it was stored before that was noted
    first_by: str | None
    first: Result
    then_by: str
    then: Result

    @property
    def what(self) -> str:
        """Both results, in a sentence."""
        text = f"step {self.step} was told twice with different results: {self.first.digest}, then {self.then.digest}"
        if self.first.digest == self.then.digest:
            one, other = (r.canonical().decode()[:_LONGEST] for r in (self.first, self.then))
            text += f" (the logged values or samples differ: {one}, then {other})"
        return text

    @property
    def who(self) -> str:
        """Both attempts, in a sentence."""
        if self.first_by == self.then_by:
            return f"attempt {self.then_by} told both"
        return f"attempt {self.first_by or 'before this was noted'} told the first, attempt {self.then_by} the second"


def take_rows(session: Session, job: JobRow, attempt: str, rows: Iterable[LedgerRow]) -> Contradiction | None:
    """Store the rows of steps that are not stored yet. Return the first contradiction: a row that is stored stays as it is."""
    wanted: dict[int, LedgerRow] = {}
    found: Contradiction | None = None
    for row in rows:
        first = wanted.setdefault(row.result.step, row)
        if first is not row:
            found = found or _compare(attempt, first, attempt, row)
    for stored in _stored(session, job, wanted):
        found = found or _again(stored, wanted.pop(stored.step), attempt)
    if wanted:
        job.progressed = True
        new: list[dict[str, Any]] = [
            {"job": job.id, "step": step, "row": row.model_dump_json(), "attempt": attempt}
            for step, row in sorted(wanted.items())
        ]
        session.execute(insert(StepRow), new)
        job.told_bytes += sum(len(row["row"].encode()) + ROW_BYTES for row in new)
        done = job.steps_done
        while done in wanted:
            done += 1
        job.steps_done = counted_on(session, job.id, done)
    return found


def are_stored(session: Session, job: JobRow, rows: Iterable[LedgerRow]) -> bool:
    """Whether all of these rows are stored, with these results."""
    wanted = {row.result.step: row for row in rows}
    same = 0
    for stored in _stored(session, job, wanted):
        first = ledger_row(stored.row)
        same += first is not None and first.result.canonical() == wanted[stored.step].result.canonical()
    return same == len(wanted)


def _stored(session: Session, job: JobRow, wanted: Iterable[int]) -> list[StepRow]:
    """Those of the steps that are stored: by their numbers, so that steps far apart cost no more than neighbours."""
    steps = list(wanted)
    if not steps:
        return []
    return list(session.scalars(select(StepRow).where(StepRow.job == job.id, StepRow.step.in_(steps))))


def _again(stored: StepRow, again: LedgerRow, attempt: str) -> Contradiction | None:
    """A step told twice is the same step; were it not, the promise would be broken, and that is not to pass unseen."""
    first = ledger_row(stored.row)
    if first is None:
        log.warning("unreadable_row_replaced", job=stored.job, step=stored.step, attempt=attempt)
        stored.row, stored.attempt = again.model_dump_json(), attempt
        return None
    return _compare(stored.attempt, first, attempt, again)


def _compare(first_by: str | None, first: LedgerRow, then_by: str, then: LedgerRow) -> Contradiction | None:
    if first.result.canonical() == then.result.canonical():
        return None
    return Contradiction(
        step=then.result.step, first_by=first_by, first=first.result, then_by=then_by, then=then.result
    )


_is_stored = select(StepRow.step).where(StepRow.job == bindparam("job"), StepRow.step == bindparam("step"))
_after = aliased(StepRow)
_end_of_run = (
    select(StepRow.step)
    .where(
        StepRow.job == bindparam("job"),
        StepRow.step >= bindparam("step"),
        ~select(_after.step).where(_after.job == StepRow.job, _after.step == StepRow.step + 1).exists(),
    )
    .order_by(StepRow.step)
    .limit(1)
)


def counted_on(session: Session, job: str, done: int) -> int:
    """Return the first step from `done` on that is not stored. Costs as much as there are steps without a gap."""
    here = {"job": job, "step": done}
    if session.scalar(_is_stored, here) is None:
        return done
    return session.scalars(_end_of_run, here).one() + 1
