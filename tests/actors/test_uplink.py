"""The uplink: nothing lost, nothing out of order, whatever the control plane does; and what flows grows with seconds."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tenacity import wait_none

from surefoot.events import (
    Circumstances,
    Command,
    CommandKind,
    Event,
    EventKind,
    LedgerRow,
    Result,
    SentBatch,
    UplinkAck,
    UplinkBatch,
)
from surefoot.system import SystemSample
from surefoot_actors.journal.memory import MemoryJournal
from surefoot_actors.uplink import http as http_uplink
from surefoot_actors.uplink.http import HttpUplink
from surefoot_actors.uplink.memory import MemoryUplink
from surefoot_actors.uplink.outbox import Outbox
from surefoot_actors.uplink.ports import Uplink

LIVENESS_S = 20.0
NOW = datetime(2026, 1, 1, tzinfo=UTC)


def row(step: int) -> LedgerRow:
    result = Result(step=step, first_sample=step * 8, num_samples=8, digest=f"{step:032x}", values={"loss": 0.5})
    return LedgerRow(result=result, circumstances=Circumstances(generation=1, trainers=1, seconds=0.1))


class ControlPlane:
    """Stores what is posted, once each, unless told to fail. `answers` are used up first, one a post."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.ledger: dict[int, LedgerRow] = {}
        self.commands: list[Command] = []
        self.commanded = asyncio.Event()
        self.answers: list[int | str] = []
        self.sizes: list[int] = []
        self.samples: list[SystemSample] = []
        self.asked_after: list[int] = []

    async def __call__(self, request: httpx.Request) -> httpx.Response:
        assert request.headers["Authorization"] == "Bearer secret"
        if request.url.path == "/v1/attempts/a-1/uplink":
            return self._uplink(SentBatch.model_validate_json(request.content))
        assert request.url.path == "/v1/attempts/a-1/commands"
        return await self._commands(int(request.url.params["after"]))

    def _uplink(self, batch: SentBatch) -> httpx.Response:
        answer = self.answers.pop(0) if self.answers else 200
        if answer == "lost before":
            raise httpx.ConnectError("refused")
        if isinstance(answer, int) and answer != 200:
            return httpx.Response(answer, text="a problem", headers={"Content-Type": "application/problem+json"})
        if answer == "a stranger's 413":
            return httpx.Response(413, text="<html>too large")
        if answer == "a stranger's":
            return httpx.Response(404, text="<html>no such backend")
        self.sizes.append(len(batch.rows))
        self.samples += batch.system
        known = {(event.source, event.n) for event in self.events}
        self.events += [event for event in batch.events if (event.source, event.n) not in known]
        self.ledger.update((r.result.step, r) for r in batch.rows)
        if answer == "lost after":
            raise httpx.ReadTimeout("no answer")
        if answer == "nonsense":
            return httpx.Response(200, text="<html>")
        return httpx.Response(200, text=UplinkAck(rows_below=self.below).model_dump_json())

    @property
    def below(self) -> int:
        below = 0
        while below in self.ledger:
            below += 1
        return below

    async def _commands(self, after: int) -> httpx.Response:
        self.asked_after.append(after)
        while not (new := [c for c in self.commands if c.n > after]):
            self.commanded.clear()
            await self.commanded.wait()
        return httpx.Response(200, text=json.dumps({"commands": [c.model_dump() for c in new]}))

    def command(self, n: int) -> None:
        self.commands.append(Command(n=n, kind=CommandKind.RESIZE, trainers=n))
        self.commanded.set()


@pytest.fixture
def plane() -> ControlPlane:
    return ControlPlane()


@pytest.fixture
async def uplink(plane: ControlPlane) -> AsyncIterator[HttpUplink]:
    client = httpx.AsyncClient(transport=httpx.MockTransport(plane))
    uplink = HttpUplink("http://plane/", "a-1", "secret", "a-1/supervisor-1", client=client)
    yield uplink
    await uplink.close()


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


class Choosy(ControlPlane):
    """Refuses whole batches for one event or row in them, as the door does."""

    def __init__(self, status: int = 422) -> None:
        super().__init__()
        self.status, self.posts = status, 0

    def _uplink(self, batch: SentBatch) -> httpx.Response:
        self.posts += 1
        bad = any(e.data.get("message") == "bad" for e in batch.events) or any(r.result.step == 7 for r in batch.rows)
        if bad:
            return httpx.Response(self.status, text="{}", headers={"Content-Type": "application/problem+json"})
        return super()._uplink(batch)


@pytest.mark.parametrize("status", [422, 413])
async def test_one_that_is_refused_holds_up_none_of_the_others(status: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """And it is told that it was: the sender neither stops, nor spins, nor is silent."""
    monkeypatch.setattr(http_uplink, "BATCH_S", 0.01)
    plane = Choosy(status)
    client = httpx.AsyncClient(transport=httpx.MockTransport(plane))
    uplink = HttpUplink("http://plane/", "a-1", "secret", "a-1/supervisor-1", client=client)
    await uplink.start()
    for n in range(40):
        uplink.event(EventKind.WARNING, message="bad" if n == 23 else str(n))
    uplink.rows(row(step) for step in range(20))
    assert await uplink.flush(60)
    messages = [event.data["message"] for event in plane.events]
    assert set(map(str, range(40))) - {"23"} <= set(messages)
    assert sorted(plane.ledger) == [*range(7), *range(8, 20)]
    told = [m for m in messages if str(m).startswith("the control plane refused")]
    assert len(told) == 2
    assert any("ledger row of step 7" in str(m) for m in told)
    assert plane.posts < 100  # each takes some ten to be found
    # what comes later goes on
    uplink.event(EventKind.STATE, state="running")
    assert await uplink.flush(LIVENESS_S)
    assert plane.events[-1].kind is EventKind.STATE
    await uplink.close()


async def test_a_word_that_is_refused_for_a_while_is_not_given_up(plane: ControlPlane, uplink: HttpUplink) -> None:
    """While the service is being replaced by one that takes it."""
    plane.answers = [422, 422, 422]
    await uplink.start()
    uplink.event(EventKind.STATE, state="running")
    uplink.rows([row(0)])
    assert await uplink.flush(LIVENESS_S)
    assert [event.kind for event in plane.events] == [EventKind.STATE]


async def test_a_control_plane_that_refuses_everything_is_not_told_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_uplink, "BATCH_S", 0.01)
    posts = 0

    async def refuses(request: httpx.Request) -> httpx.Response:
        nonlocal posts
        posts += 1
        return httpx.Response(422, text="{}", headers={"Content-Type": "application/problem+json"})

    client = httpx.AsyncClient(transport=httpx.MockTransport(refuses))
    uplink = HttpUplink("http://plane/", "a-1", "secret", "a-1/supervisor-1", client=client)
    await uplink.start()
    # the first, empty, post is of nobody's making: it is tried again
    uplink.event(EventKind.WARNING, message="x")
    assert await uplink.flush(60)
    await uplink.close()


async def test_an_answer_and_commands_of_a_newer_control_plane(uplink: HttpUplink, plane: ControlPlane) -> None:
    async def newer(request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith("/uplink"):
            return httpx.Response(200, json={"events": {}, "rows_below": 1, "of_a_newer": [1]})
        commands = [{"n": 1, "kind": "dance", "to": 3}, {"n": 2, "kind": "fault", "fault": "flood"}]
        return httpx.Response(200, json={"commands": [*commands, {"n": 3, "kind": "cancel"}], "of_a_newer": 1})

    client = httpx.AsyncClient(transport=httpx.MockTransport(newer))
    made = HttpUplink("http://plane/", "a-1", "secret", "a-1/supervisor-1", client=client)
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
    client = httpx.AsyncClient(transport=httpx.MockTransport(plane))
    uplink = HttpUplink("http://plane/", "a-1", "secret", "a-1/supervisor-1", client=client, journal=journal)
    await uplink.start()
    assert await uplink.flush(LIVENESS_S)
    assert [(event.n, str(event.kind)) for event in plane.events] == [(1, "warning"), (2, "of_a_newer_version")]
    await uplink.close()


STRANGE = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.just("\ud800\0")
    | st.just("x" * 200_000),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=20,
)


@given(st.dictionaries(st.sampled_from(["message", "seconds", "trainers", "more"]), STRANGE, max_size=4))
@settings(deadline=None, max_examples=100)
def test_whatever_is_told_fits_through_the_door(data: dict[str, Any]) -> None:
    outbox = Outbox("a-1/supervisor-1")
    outbox.event(EventKind("trainer_lost"), {"more": data}, NOW)
    UplinkBatch.model_validate_json(outbox.batch(1).model_dump_json())


async def test_what_is_too_large_goes_in_smaller_batches(plane: ControlPlane, uplink: HttpUplink) -> None:
    plane.answers = [200, 413, 413]
    await uplink.start()
    async with asyncio.timeout(LIVENESS_S):
        while plane.answers[:1] == [200]:  # noqa: ASYNC110
            await asyncio.sleep(0)
    uplink.rows(row(step) for step in range(600))
    assert await uplink.flush(LIVENESS_S)
    assert uplink.rows_below == 600
    assert max(plane.sizes) == 250


async def test_a_strangers_word_that_a_small_batch_is_too_large_loses_nothing(
    plane: ControlPlane, uplink: HttpUplink, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another program at the control plane's address may say so of anything; a proxy says so of what is large."""
    monkeypatch.setattr(http_uplink, "wait_random_exponential", lambda **_: wait_none())
    plane.answers = ["a stranger's 413"] * 12
    await uplink.start()
    uplink.event(EventKind.STATE, state="running")
    uplink.rows([row(0)])
    assert await uplink.flush(LIVENESS_S)
    assert [event.kind for event in plane.events] == [EventKind.STATE]
    assert sorted(plane.ledger) == [0]


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
        client = httpx.AsyncClient(transport=httpx.MockTransport(plane))
        made = HttpUplink("http://plane/", "a-1", "secret", f"a-1/supervisor-{number}", client=client, journal=journal)
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


# ---- what is kept, purely

Act = st.one_of(
    st.tuples(st.just("rows"), st.lists(st.integers(0, 12), max_size=4)),
    st.tuples(st.just("event"), st.none()),
    st.tuples(st.sampled_from(["stored", "answer lost"]), st.integers(1, 3)),
)


@given(st.lists(Act, max_size=40))
def test_all_that_is_told_is_stored_in_order_and_then_forgotten(acts: list[tuple[str, Any]]) -> None:
    outbox, told_rows, num_events = Outbox("s"), set(), 0
    events: dict[int, Event] = {}
    ledger: dict[int, LedgerRow] = {}

    def post(most: int, *, answered: bool) -> None:
        batch = outbox.batch(most)
        assert len(batch.events) <= most
        assert len(batch.rows) <= most
        for event in batch.events:
            assert event.n == 1 or event.n - 1 in events
            events[event.n] = event
        ledger.update((r.result.step, r) for r in batch.rows)
        if answered:
            outbox.stored(batch, next(step for step in range(100) if step not in ledger))

    for what, value in acts:
        if what == "rows":
            outbox.rows([row(step) for step in value])
            told_rows |= set(value)
        elif what == "event":
            outbox.event(EventKind.WARNING, {}, NOW)
            num_events += 1
        else:
            post(value, answered=what == "stored")
    while not outbox.empty:
        post(3, answered=True)
    assert set(ledger) == told_rows
    assert sorted(events) == list(range(1, num_events + 1))


def test_a_long_string_is_cut_to_its_end() -> None:
    outbox = Outbox("s")
    outbox.event(EventKind.FAILED, {"traceback": "x" * 200_000 + "the error"}, NOW)
    [event] = outbox.batch(1).events
    text = event.data["traceback"]
    assert isinstance(text, str)
    assert text.endswith("xthe error")
    assert len(text) == 100_000


@pytest.mark.parametrize(
    ("answer", "stored"),
    [
        (httpx.Response(404, text="<html>no such backend"), None),
        (httpx.Response(408, text="too slow", headers={"Content-Type": "application/problem+json"}), None),
        (httpx.Response(429, text="not now", headers={"Content-Type": "application/problem+json"}), None),
        (httpx.Response(503, text="away", headers={"Content-Type": "application/problem+json"}), None),
        (httpx.Response(410, text="over", headers={"Content-Type": "application/problem+json"}), False),
        (httpx.Response(422, text="no frames", headers={"Content-Type": "application/problem+json"}), False),
    ],
    ids=lambda value: str(value.status_code) if isinstance(value, httpx.Response) else "",
)
async def test_printed_lines_are_given_up_by_the_control_planes_own_word_alone(
    answer: httpx.Response, stored: bool | None
) -> None:
    """None: the answer is no such word, so that they are sent again, and stored."""
    answers = [answer, httpx.Response(200, json={"stored": 1})]
    client = httpx.AsyncClient(transport=httpx.MockTransport(lambda _: answers.pop(0)))
    uplink = HttpUplink("http://plane/", "a-1", "secret", "a-1/supervisor-1", client=client)
    assert await uplink.logs(b"frames") is (stored is None)
    assert len(answers) == (0 if stored is None else 1)
    await client.aclose()


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
