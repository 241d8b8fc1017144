"""What traces tell of jobs, read from what is stored. A job whose spans are not exported yet has a `traceparent`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from sqlalchemy import or_, select, update
from sqlalchemy.orm import Session

from surefoot_service.store.reading import event_of, ledger_row, spec_of
from surefoot_service.store.tables import AttemptRow, EventRow, EventSourceRow, JobRow, StepRow
from surefoot_service.tracing.context import context_of, read_context
from surefoot_service.tracing.spans import KINDS, AttemptFacts, JobFacts, SpanFacts, ready_at, spans_of

__all__ = ["Due", "due", "exported", "spans"]

# attempts before the first step that are told of: the last ones
_ATTEMPTS = 20
# events of one attempt that are looked at for when its first trainers were ready
_EVENTS = 2000


@dataclass(frozen=True, slots=True, kw_only=True)
class Due:
    """A job whose spans are to be exported."""

    job: str
    number: int


def due(session: Session, after: int, limit: int) -> tuple[Due, ...]:
    """Return up to `limit` jobs behind the number `after` that have come to their first step, or ended before it."""
    has_step = select(StepRow.step).where(StepRow.job == JobRow.id).exists()
    query = (
        select(JobRow.id, JobRow.number)
        # so that the index answers it: every database finds what is greater in one
        .where(JobRow.traceparent > "", JobRow.deleted_at.is_(None), JobRow.number > after)
        .where(or_(JobRow.ended_at.is_not(None), has_step))
        .order_by(JobRow.number)
        .limit(limit)
    )
    return tuple(Due(job=job, number=number) for job, number in session.execute(query))


def exported(session: Session, job: str) -> None:
    """The job's spans are exported, or never will be."""
    session.execute(update(JobRow).where(JobRow.id == job).values(traceparent=None))


def spans(session: Session, job: str, now: datetime) -> tuple[SpanFacts, ...]:
    """Return the spans of a job that is due; none where it is gone, or another replica was faster."""
    row = session.scalar(select(JobRow).where(JobRow.id == job, JobRow.deleted_at.is_(None)))
    if row is None or row.traceparent is None:
        return ()
    spec = spec_of(row).spec
    facts = JobFacts(
        id=row.id,
        name=spec.name,
        entrypoint=spec.entrypoint,
        trainers=spec.trainers,
        state=row.state,
        context=context_of(row.id, read_context(row.traceparent)),
        asked_at=row.asked_at or row.created_at,
        created_at=row.created_at,
        ended_at=row.ended_at,
    )
    return spans_of(facts, _attempts(session, row, now), now)


def _attempts(session: Session, job: JobRow, now: datetime) -> Sequence[AttemptFacts]:
    first = session.scalar(select(StepRow).where(StepRow.job == job.id).order_by(StepRow.step).limit(1))
    query = select(AttemptRow).where(AttemptRow.job == job.id)
    found = session.scalars(query.order_by(AttemptRow.n)).all()
    if first is not None:
        told_by = first.attempt or (found[-1].id if found else None)
        last = next((row.n for row in found if row.id == told_by), None)
        found = [row for row in found if last is None or row.n <= last]
    at = None if first is None else _committed_at(first, now)
    rows = found[-_ATTEMPTS:]
    return [_facts(session, row, at if row is rows[-1] else None) for row in rows]


def _committed_at(step: StepRow, now: datetime) -> datetime:
    """When the step was committed; about now, where that was not told."""
    row = ledger_row(step.row)
    try:
        return datetime.fromtimestamp(row.circumstances.at, UTC) if row is not None and row.circumstances.at else now
    except (ValueError, OverflowError, OSError):
        return now  # a stored number that is no time


def _facts(session: Session, row: AttemptRow, first_step_at: datetime | None) -> AttemptFacts:
    ends = [at for at in (row.fenced_at, row.cleaned_at) if at is not None]
    return AttemptFacts(
        id=row.id,
        number=row.n,
        created_at=row.created_at,
        submitted_at=row.submitted_at,
        claimed_at=row.claimed_at,
        spoke_at=row.spoke_at,
        ready_at=_ready_at(session, row),
        first_step_at=first_step_at,
        ended_at=min(ends, default=None),
        lost=row.fenced_at is not None,
    )


def _ready_at(session: Session, attempt: AttemptRow) -> datetime | None:
    sources = select(EventSourceRow.source).where(
        EventSourceRow.job == attempt.job, EventSourceRow.attempt == attempt.id
    )
    query = (
        select(EventRow)
        .where(EventRow.job == attempt.job, EventRow.source.in_(sources))
        .where(EventRow.kind.in_([str(kind) for kind in KINDS]))
        .order_by(EventRow.seq)
        .limit(_EVENTS)
    )
    return ready_at([event_of(row) for row in session.scalars(query)])
