"""What a batch costs is what is in it, not what is stored already: counted in the database's own instructions."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Any

import pytest
from sqlalchemy import event, insert
from sqlalchemy.orm import Session

from surefoot.events import Event, EventKind, LedgerRow
from surefoot_service.parts import Service
from surefoot_service.store.tables import EventRow, StepRow

from .helpers import AT, Attempt, make_event, make_row

STORED = 100_000
# instructions between two counts
_GRAIN = 100


@pytest.fixture
def instructions(service: Service) -> list[int]:
    """How many the writing connection has done, in hundreds."""
    counted = [0]

    def count() -> int:
        counted[0] += 1
        return 0

    def watch(connection: Any, *_: Any) -> None:
        raw: sqlite3.Connection = connection
        raw.set_progress_handler(count, _GRAIN)

    event.listen(service.database._writing, "checkout", watch)
    return counted


async def cost(
    instructions: list[int], attempt: Attempt, *, rows: Sequence[LedgerRow] = (), events: Sequence[Event] = ()
) -> int:
    before = instructions[0]
    answer = await attempt.uplink(rows=rows, events=events)
    assert answer.status_code == 200, answer.text
    return instructions[0] - before


async def test_row_0_beside_row_100001_costs_no_more_than_two_rows(
    service: Service, attempt: Attempt, instructions: list[int]
) -> None:
    text = make_row(0).model_dump_json()

    def fill(session: Session) -> None:
        rows = [{"job": attempt.job, "step": n, "row": text, "attempt": attempt.name} for n in range(10, STORED)]
        session.execute(insert(StepRow), rows)

    await service.database.write(fill)
    two = await cost(instructions, attempt, rows=[make_row(1), make_row(2)])
    apart = await cost(instructions, attempt, rows=[make_row(3), make_row(STORED + 1)])
    again = await cost(instructions, attempt, rows=[make_row(3), make_row(STORED + 1)])
    assert apart <= 2 * two + 10
    assert again <= 2 * two + 10


async def test_an_event_costs_the_same_however_many_are_stored(
    service: Service, attempt: Attempt, instructions: list[int]
) -> None:
    few = await cost(instructions, attempt, events=[make_event(1, EventKind.WARNING, message="x")])

    def fill(session: Session) -> None:
        of = {"job": attempt.job, "source": "supervisor-1", "at": AT, "kind": "warning", "data": "{}"}
        session.execute(insert(EventRow), [of | {"n": n} for n in range(2, STORED)])

    await service.database.write(fill)
    # counted once, as a version that did not count would leave it to be
    await cost(instructions, attempt, events=[make_event(STORED, EventKind.WARNING, message="x")])
    many = await cost(instructions, attempt, events=[make_event(STORED + 1, EventKind.WARNING, message="x")])
    apart = [make_event(n, EventKind.WARNING, message="x") for n in (3, STORED + 9)]
    assert many <= 2 * few + 10
    assert await cost(instructions, attempt, events=apart) <= 4 * few + 10
