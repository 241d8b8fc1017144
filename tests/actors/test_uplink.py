"""The uplink: nothing lost, nothing out of order, whatever the control plane does; and what flows grows with seconds."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import pytest

from surefoot.events import (
    Command,
    CommandKind,
    Event,
    EventKind,
)
from surefoot.system import SystemSample
from surefoot_actors.journal.memory import MemoryJournal
from surefoot_actors.uplink.http import HttpUplink
from surefoot_actors.uplink.memory import MemoryUplink
from surefoot_actors.uplink.ports import Uplink

from .uplink_plane import LIVENESS_S, NOW, ControlPlane, row, uplink_to


def is_uplink(uplink: Uplink) -> Uplink:
    return uplink


async def test_events_and_rows_are_stored_once_in_order(plane: ControlPlane, uplink: HttpUplink) -> None:
    is_uplink(uplink)
    await uplink.start()
    for n in range(5):
        uplink.event(EventKind.WARNING, message=str(n))
    uplink.rows([row(1), row(0), row(1)])
    assert await uplink.flush(LIVENESS_S)
    assert [(event.source, event.n, event.data["message"]) for event in plane.events] == [
        ("a-1/supervisor-1", n + 1, str(n)) for n in range(5)
    ]
    assert sorted(plane.ledger) == [0, 1]
    assert uplink.rows_below == 2


@pytest.mark.parametrize("answer", ["lost before", "lost after", "nonsense", "a stranger's", 500, 503, 422, 429])
async def test_a_control_plane_that_is_away_loses_nothing(plane: ControlPlane, uplink: HttpUplink, answer: Any) -> None:
    plane.answers = [answer] * 3
    await uplink.start()
    uplink.event(EventKind.STATE, state="running")
    uplink.rows([row(0)])
    assert await uplink.flush(LIVENESS_S)
    assert not plane.answers
    assert [event.n for event in plane.events] == [1]
    assert uplink.rows_below == 1


async def test_text_that_is_no_text_is_told_as_far_as_it_is(plane: ControlPlane, uplink: HttpUplink) -> None:
    """A file's name that is not UTF-8 comes into a traceback as half a surrogate pair."""
    await uplink.start()
    uplink.event(EventKind.FAILED, reason="no such file: 'caf\udce9.png'", files=["caf\udce9.png"])
    assert await uplink.flush(LIVENESS_S)
    [event] = plane.events
    assert (event.data["reason"], event.data["files"]) == ("no such file: 'caf?.png'", ["caf?.png"])


async def test_a_fault_of_its_own_does_not_end_the_sender(
    plane: ControlPlane, uplink: HttpUplink, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch, failures = uplink._outbox.batch, [ValueError("a fault of our own")]

    def fails_once(most: int) -> Any:
        if failures:
            raise failures.pop()
        return batch(most)

    monkeypatch.setattr(uplink._outbox, "batch", fails_once)
    await uplink.start()
    uplink.event(EventKind.STATE, state="running")
    assert await uplink.flush(LIVENESS_S)
    assert not failures
    assert len(plane.events) == 1


@pytest.mark.parametrize("status", [401, 404, 410])
async def test_a_refused_attempt_ends(plane: ControlPlane, uplink: HttpUplink, status: int) -> None:
    plane.answers = [status]
    await uplink.start()
    uplink.event(EventKind.STATE, state="running")
    async with asyncio.timeout(LIVENESS_S):
        await uplink.gone.wait()
    assert str(status) in uplink.gone_reason
    assert not await uplink.flush(LIVENESS_S)
    assert [c async for c in uplink.commands()] == []


async def test_many_rows_go_in_batches_and_few_posts(plane: ControlPlane, uplink: HttpUplink) -> None:
    await uplink.start()
    for step in range(2500):
        uplink.rows([row(step)])
    assert await uplink.flush(LIVENESS_S)
    assert sorted(plane.ledger) == list(range(2500))
    assert max(plane.sizes) == 1000
    assert uplink.posts == len(plane.sizes) <= 4
    assert uplink.sent_bytes > 2500 * 100


async def test_an_answer_and_commands_of_a_newer_control_plane(uplink: HttpUplink, plane: ControlPlane) -> None:
    async def newer(request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith("/uplink"):
            return httpx.Response(200, json={"events": {}, "rows_below": 1, "of_a_newer": [1]})
        commands = [{"n": 1, "kind": "dance", "to": 3}, {"n": 2, "kind": "fault", "fault": "flood"}]
        return httpx.Response(200, json={"commands": [*commands, {"n": 3, "kind": "cancel"}], "of_a_newer": 1})

    made = uplink_to(newer)
    await made.start()
    made.rows([row(0)])
    assert await made.flush(LIVENESS_S)
    async with asyncio.timeout(LIVENESS_S):
        commands = made.commands()
        assert [str((await anext(commands)).kind) for _ in range(3)] == ["dance", "fault", "cancel"]
    await made.close()


async def test_an_event_that_was_kept_and_cannot_be_read_does_not_keep_the_others(plane: ControlPlane) -> None:
    journal = MemoryJournal()
    older = Event(source="a-1/supervisor-0", n=1, at=NOW, kind=EventKind.WARNING, data={"message": "of before"})
    newer = older.model_dump(mode="json") | {"n": 2, "kind": "of_a_newer_version", "of_a_newer": 1}
    journal.keep(["{", older.model_dump_json(), json.dumps(newer)])
    uplink = uplink_to(plane, journal=journal)
    await uplink.start()
    assert await uplink.flush(LIVENESS_S)
    assert [(event.n, str(event.kind)) for event in plane.events] == [(1, "warning"), (2, "of_a_newer_version")]
    await uplink.close()


async def test_a_row_above_a_gap_is_sent_once(plane: ControlPlane, uplink: HttpUplink) -> None:
    await uplink.start()
    for _ in range(3):
        uplink.rows([row(5)])
        assert await uplink.flush(LIVENESS_S)
    assert sum(plane.sizes) == 1
    assert uplink.rows_below == 0


async def test_a_flush_has_an_end(plane: ControlPlane, uplink: HttpUplink) -> None:
    plane.answers = [503] * 1000
    await uplink.start()
    uplink.rows([row(0)])
    assert not await uplink.flush(0.2)


async def test_what_a_killed_supervisor_could_not_tell_is_told_by_the_next(plane: ControlPlane) -> None:
    journal = MemoryJournal()

    async def supervisor(number: int) -> HttpUplink:
        made = uplink_to(plane, f"a-1/supervisor-{number}", journal=journal)
        await made.start()
        return made

    first = await supervisor(1)
    first.event(EventKind.WARNING, message="told")
    assert await first.flush(LIVENESS_S)
    plane.answers = ["lost after", *[503] * 1000]
    first.event(EventKind.WARNING, message="stored, but not answered")
    first.event(EventKind.WARNING, message="not stored")
    async with asyncio.timeout(LIVENESS_S):
        while sum(len(events) for _, events in journal.kept()) < 2:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    await first.close()
    plane.answers = []
    second = await supervisor(2)
    second.event(EventKind.WARNING, message="of the second")
    assert await second.flush(LIVENESS_S)
    assert sorted((event.source[-1], event.n, event.data["message"]) for event in plane.events) == [
        ("1", 1, "told"),
        ("1", 2, "stored, but not answered"),
        ("1", 3, "not stored"),
        ("2", 1, "of the second"),
    ]
    async with asyncio.timeout(LIVENESS_S):
        while journal.kept():  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    await second.close()


async def test_commands_come_once_and_go_on_where_they_were(plane: ControlPlane, uplink: HttpUplink) -> None:
    async with asyncio.timeout(LIVENESS_S):
        plane.command(1)
        plane.command(2)
        commands = uplink.commands()
        assert [(await anext(commands)).n, (await anext(commands)).n] == [1, 2]
        later = asyncio.ensure_future(anext(commands))
        while len(plane.asked_after) < 2:  # noqa: ASYNC110
            await asyncio.sleep(0)
        plane.command(3)
        assert (await later).n == 3
        plane.command(4)
        assert (await anext(uplink.commands())).n == 4
    assert plane.asked_after == [0, 2, 3]


async def test_memory_uplink_keeps_all() -> None:
    uplink = MemoryUplink()
    is_uplink(uplink)
    uplink.event(EventKind.STATE, state="running", reason="")
    uplink.rows([row(0), row(2)])
    assert uplink.rows_below == 1
    uplink.rows([row(1)])
    assert uplink.rows_below == 3
    assert [(event.n, event.kind) for event in uplink.events] == [(1, EventKind.STATE)]
    uplink.command(Command(n=1, kind=CommandKind.CANCEL))
    assert (await anext(uplink.commands())).kind is CommandKind.CANCEL


async def test_of_samples_the_newest_goes_along_and_what_is_lost_is_not_told_again(
    plane: ControlPlane, uplink: HttpUplink, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("surefoot_actors.uplink.http.SAMPLES_S", 0.01)
    await uplink.start()
    for cpus in (1.0, 2.0):
        uplink.system(SystemSample(trainer="t0", cpus=cpus))
    uplink.system(SystemSample(trainer="t1", cpus=3.0))
    async with asyncio.timeout(LIVENESS_S):
        # nothing else is to be sent: it goes by itself
        while not plane.samples:  # noqa: ASYNC110  it is the far end's
            await asyncio.sleep(0.01)
    assert [(sample.trainer, sample.cpus) for sample in plane.samples] == [("t0", 2.0), ("t1", 3.0)]
    uplink.event(EventKind.WARNING, message="later")
    assert await uplink.flush(LIVENESS_S)
    assert len(plane.samples) == 2
