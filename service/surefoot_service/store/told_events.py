"""Events of attempts in the store: each once, by (source, n), and only by whom the source belongs to."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pydantic import BaseModel
from sqlalchemy import bindparam, func, insert, select
from sqlalchemy.orm import Session, aliased

from surefoot.names import attempt_of
from surefoot.told import AnyTold
from surefoot_service.errors import InvalidError
from surefoot_service.store.columns import LAST_NUMBER
from surefoot_service.store.tables import AttemptRow, EventRow, EventSourceRow

__all__ = ["MAX_AHEAD", "are_stored", "check_sources", "store_new", "stored_below"]

# how far the numbers of a source may run ahead of what is stored of it
MAX_AHEAD = 100_000
# sources of one batch: a supervisor's own, and those of the ones before it whose events it hands in
MAX_SOURCES = 100
# what an event takes beside its data: its other fields, and its places in the indexes
EVENT_BYTES = 200


def check_sources(session: Session, attempt: AttemptRow, events: Sequence[AnyTold]) -> Mapping[str, EventSourceRow]:
    """Return how far each of the events' sources is stored. Raises InvalidError where one is not the attempt's, or runs ahead."""
    sources: dict[str, EventSourceRow] = {}
    for place, event in enumerate(events):
        name = event.source
        if name not in sources:
            if len(sources) == MAX_SOURCES:
                raise InvalidError(
                    f"body.events.{place}.source", f"a batch has events of at most {MAX_SOURCES} sources"
                )
            sources[name] = _source(session, attempt, name, f"body.events.{place}.source")
        if event.n > sources[name].stored + MAX_AHEAD:
            _check_ahead(session, attempt.job, name, event.n, f"body.events.{place}.n")
    return sources


def _check_ahead(session: Session, job: str, source: str, n: int, field: str) -> None:
    """There may be a gap: a store that was put back to an older state has one."""
    mine = (EventRow.job == job, EventRow.source == source, EventRow.n <= LAST_NUMBER)
    last = session.scalar(select(func.max(EventRow.n)).where(*mine)) or 0
    if n > last + MAX_AHEAD:
        message = f"{n} is more than {MAX_AHEAD} ahead of {last}, the last event of {source} that is stored"
        raise InvalidError(field, message)


def _source(session: Session, attempt: AttemptRow, name: str, field: str) -> EventSourceRow:
    owner = attempt_of(name)
    row = session.get(EventSourceRow, (attempt.job, name))
    if (owner and owner != attempt.id) or (row is not None and row.attempt != attempt.id):
        raise InvalidError(
            field, f"{name} is a source of attempt {owner or (row and row.attempt)}, not of {attempt.id}"
        )
    if row is None:
        row = EventSourceRow(job=attempt.job, source=name, attempt=attempt.id, stored=0)
        session.add(row)
    return row


def store_new(session: Session, job: str, events: Iterable[AnyTold]) -> tuple[list[AnyTold], int]:
    """Store the events that are not yet, in their order; return them, and the bytes that they take."""
    wanted: dict[tuple[str, int], AnyTold] = {}
    for event in events:
        wanted.setdefault((event.source, event.n), event)
    for key in _known(session, job, wanted):
        del wanted[key]
    rows = [_row(job, event) for event in wanted.values()]
    if rows:
        # in one statement, row by row, so that seq has the order in which they were told
        session.execute(insert(EventRow), rows)
    return list(wanted.values()), sum(len(row["data"]) + EVENT_BYTES for row in rows)


def are_stored(session: Session, job: str, events: Iterable[AnyTold]) -> bool:
    """Whether all of these events are stored."""
    keys = {(event.source, event.n) for event in events}
    return len(_known(session, job, keys)) == len(keys)


def _known(session: Session, job: str, keys: Iterable[tuple[str, int]]) -> list[tuple[str, int]]:
    by_source: dict[str, list[int]] = {}
    for source, n in keys:
        by_source.setdefault(source, []).append(n)
    return [
        (source, n)
        for source, numbers in by_source.items()
        for n in session.scalars(
            select(EventRow.n).where(EventRow.job == job, EventRow.source == source, EventRow.n.in_(numbers))
        )
    ]


def _row(job: str, event: AnyTold) -> dict[str, Any]:
    data: Any = event.data
    if isinstance(data, BaseModel):
        data = data.model_dump(mode="json", exclude_unset=True)
    return {
        "job": job,
        "source": event.source,
        "n": event.n,
        "at": event.at,
        "kind": str(event.kind),
        "data": json.dumps(data, allow_nan=False),
    }


def stored_below(session: Session, sources: Mapping[str, EventSourceRow], events: Iterable[AnyTold]) -> dict[str, int]:
    """By source, every event with n up to and including this is stored; `events` are."""
    told = {(event.source, event.n) for event in events}
    for name, row in sources.items():
        stored = row.stored
        while (name, stored + 1) in told:
            stored += 1
        row.stored = _counted_on(session, row, stored)
    return {name: row.stored for name, row in sources.items()}


_mine = (EventRow.job == bindparam("job"), EventRow.source == bindparam("source"))
_is_stored = select(EventRow.n).where(*_mine, EventRow.n == bindparam("n"))
_after = aliased(EventRow)
_end_of_run = (
    select(EventRow.n)
    .where(
        *_mine,
        EventRow.n >= bindparam("n"),
        ~select(_after.n)
        .where(_after.job == EventRow.job, _after.source == EventRow.source, _after.n == EventRow.n + 1)
        .exists(),
    )
    .order_by(EventRow.n)
    .limit(1)
)


def _counted_on(session: Session, source: EventSourceRow, stored: int) -> int:
    """Count on from what is known to be stored, up to the first gap."""
    here = {"job": source.job, "source": source.source, "n": stored + 1}
    return stored if session.scalar(_is_stored, here) is None else session.scalars(_end_of_run, here).one()
