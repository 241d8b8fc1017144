"""Events of attempts in the store: each once, by (source, n), and only by whom the source belongs to."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pydantic import BaseModel
from sqlalchemy import func, insert, select
from sqlalchemy.orm import Session, aliased

from surefoot.told import AnyTold
from surefoot_service.problems import unprocessable
from surefoot_service.store.tables import AttemptRow, EventRow, EventSourceRow

__all__ = ["MAX_AHEAD", "are_stored", "check_sources", "store_new", "stored_below"]

# how far the numbers of a source may run ahead of what is stored of it
MAX_AHEAD = 100_000
# sources of one batch: a supervisor's own, and those of the ones before it whose events it hands in
MAX_SOURCES = 100


def check_sources(session: Session, attempt: AttemptRow, events: Sequence[AnyTold]) -> Mapping[str, EventSourceRow]:
    """Return how far each of the events' sources is stored. Raises a 422 problem where one is not the attempt's, or runs ahead."""
    sources: dict[str, EventSourceRow] = {}
    highest: dict[str, int] = {}
    for place, event in enumerate(events):
        name = event.source
        if name not in sources:
            if len(sources) == MAX_SOURCES:
                raise unprocessable(
                    f"body.events.{place}.source", f"a batch has events of at most {MAX_SOURCES} sources"
                )
            sources[name] = _source(session, attempt, name, f"body.events.{place}.source")
            mine = (EventRow.job == attempt.job, EventRow.source == name)
            highest[name] = session.scalar(select(func.max(EventRow.n)).where(*mine)) or 0
        if event.n > highest[name] + MAX_AHEAD:
            message = (
                f"{event.n} is more than {MAX_AHEAD} ahead of {highest[name]}, the last event of {name} that is stored"
            )
            raise unprocessable(f"body.events.{place}.n", message)
    return sources


def _source(session: Session, attempt: AttemptRow, name: str, field: str) -> EventSourceRow:
    owner = name.rpartition("/")[0]
    row = session.get(EventSourceRow, (attempt.job, name))
    if (owner and owner != attempt.id) or (row is not None and row.attempt != attempt.id):
        raise unprocessable(
            field, f"{name} is a source of attempt {owner or (row and row.attempt)}, not of {attempt.id}"
        )
    if row is None:
        row = EventSourceRow(job=attempt.job, source=name, attempt=attempt.id, stored=0)
        session.add(row)
    return row


def store_new(session: Session, job: str, events: Iterable[AnyTold]) -> list[AnyTold]:
    """Store the events that are not yet, in their order; return them."""
    wanted: dict[tuple[str, int], AnyTold] = {}
    for event in events:
        wanted.setdefault((event.source, event.n), event)
    for key in _known(session, job, wanted):
        del wanted[key]
    if wanted:
        # in one statement, row by row, so that seq has the order in which they were told
        session.execute(insert(EventRow), [_row(job, event) for event in wanted.values()])
    return list(wanted.values())


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


def stored_below(session: Session, sources: Mapping[str, EventSourceRow]) -> dict[str, int]:
    """By source, every event with n up to and including this is stored."""
    for row in sources.values():
        row.stored = _counted_on(session, row)
    return {name: row.stored for name, row in sources.items()}


def _counted_on(session: Session, source: EventSourceRow) -> int:
    """Count on from what was counted before, up to the first gap."""
    mine = (EventRow.job == source.job, EventRow.source == source.source)
    if session.scalar(select(EventRow.n).where(*mine, EventRow.n == source.stored + 1)) is None:
        return source.stored
    after = aliased(EventRow)
    has_next = (
        select(after.n)
        .where(after.job == source.job, after.source == source.source, after.n == EventRow.n + 1)
        .exists()
    )
    last = select(EventRow.n).where(*mine, EventRow.n > source.stored, ~has_next).order_by(EventRow.n).limit(1)
    return session.scalars(last).one()
