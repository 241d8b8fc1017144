"""Events and ledger rows in the store: added once each, read in order."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from surefoot.events import EventKind
from surefoot.views import NumberedEvent
from surefoot_service.store.columns import LAST_NUMBER
from surefoot_service.store.reading import event_of, shown_row
from surefoot_service.store.tables import EventRow, EventSourceRow, StepRow

__all__ = [
    "SERVICE",
    "add_event",
    "checkpoint_events",
    "events_after",
    "is_told",
    "rows_from",
    "state_events",
    "trainers_on_nodes",
]

# the source of the control plane's own events
SERVICE = "service"


def add_event(session: Session, job: str, kind: EventKind, data: Mapping[str, Any], *, now: datetime) -> None:
    """Record an event of the control plane's own. The job is locked."""
    mine = (EventRow.job == job, EventRow.source == SERVICE, EventRow.n <= LAST_NUMBER)
    last = session.scalar(select(func.max(EventRow.n)).where(*mine)) or 0
    session.add(EventRow(job=job, source=SERVICE, n=last + 1, at=now, kind=kind, data=json.dumps(data)))
    session.flush()


def is_told(session: Session, job: str, kind: EventKind, data: Mapping[str, Any]) -> bool:
    """Whether the control plane has recorded this very event before."""
    mine = (EventRow.job == job, EventRow.source == SERVICE, EventRow.kind == kind, EventRow.data == json.dumps(data))
    return session.scalar(select(EventRow.seq).where(*mine).limit(1)) is not None


def checkpoint_events(session: Session, job: str, limit: int) -> tuple[NumberedEvent, ...]:
    """Return the checkpoints that were told, newest first."""
    mine = (EventRow.job == job, EventRow.kind == EventKind.CHECKPOINT)
    query = select(EventRow).where(*mine).order_by(EventRow.seq.desc()).limit(limit)
    return tuple(map(event_of, session.scalars(query)))


def events_after(session: Session, job: str, after: int, limit: int) -> tuple[NumberedEvent, ...]:
    """Return up to `limit` events with seq above `after`, in the order stored."""
    query = select(EventRow).where(EventRow.job == job, EventRow.seq > after).order_by(EventRow.seq).limit(limit)
    return tuple(map(event_of, session.scalars(query)))


_COME = (EventKind.TRAINER_STARTED, EventKind.TRAINER_READY)
_GONE = (EventKind.TRAINER_LOST, EventKind.TRAINER_LEFT, EventKind.TRAINER_REFUSED)


def trainers_on_nodes(session: Session, job: str, attempt: str) -> int:
    """Return how many trainers of an attempt that has not trained yet run, by what it has told."""
    sources = select(EventSourceRow.source).where(EventSourceRow.job == job, EventSourceRow.attempt == attempt)
    mine = (EventRow.job == job, EventRow.source.in_(sources), EventRow.kind.in_((*_COME, *_GONE)))
    there: set[object] = set()
    for row in session.scalars(select(EventRow).where(*mine).order_by(EventRow.seq).limit(_MOST_LOOKED_AT)):
        event = event_of(row)
        (there.add if event.kind in _COME else there.discard)(str(event.data.get("trainer")))
    return len(there)


# of an attempt that loses trainers again and again, no more
_MOST_LOOKED_AT = 20_000
# so many of its last states tell a job's story
_STORY = 20


def state_events(session: Session, job: str) -> tuple[NumberedEvent, ...]:
    """Return the last states that the job was told to be in, in order."""
    mine = (EventRow.job == job, EventRow.kind == EventKind.STATE)
    query = select(EventRow).where(*mine).order_by(EventRow.seq.desc()).limit(_STORY)
    return tuple(map(event_of, reversed(session.scalars(query).all())))


def rows_from(
    session: Session, job: str, from_step: int, limit: int, below: int | None = None
) -> Sequence[tuple[int, str]]:
    """Return up to `limit` ledger rows as (step, JSON), by step, from `from_step` on and below `below`."""
    query = select(StepRow.step, StepRow.row).where(StepRow.job == job, StepRow.step >= from_step)
    if below is not None:
        query = query.where(StepRow.step < below)
    found = session.execute(query.order_by(StepRow.step).limit(limit))
    return [(step, shown_row(step, row)) for step, row in found]
