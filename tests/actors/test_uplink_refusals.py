"""What the control plane refuses: given up by its own word alone, told, and in nobody else's way."""

from __future__ import annotations

import asyncio

import httpx
import pytest
from tenacity import wait_none

from surefoot.events import EventKind, SentBatch
from surefoot_actors.uplink import http as http_uplink
from surefoot_actors.uplink.http import HttpUplink

from .uplink_plane import LIVENESS_S, ControlPlane, row, uplink_to


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
    uplink = uplink_to(plane)
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

    uplink = uplink_to(refuses)
    await uplink.start()
    # the first, empty, post is of nobody's making: it is tried again
    uplink.event(EventKind.WARNING, message="x")
    assert await uplink.flush(60)
    assert posts < 100
    await uplink.close()


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
    uplink = uplink_to(lambda _: answers.pop(0))
    assert await uplink.logs(b"frames") is (stored is None)
    assert len(answers) == (0 if stored is None else 1)
    await uplink.close()
