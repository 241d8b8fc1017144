"""The live stream, over a real connection: all of it, once, in order, resumable, and ended with the job or the service."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import pytest
import uvicorn
from fastapi import FastAPI
from httpx_sse import ServerSentEvent, aconnect_sse

from surefoot.events import EventKind
from surefoot_service.parts import Service
from surefoot_service.rest import stream

from .helpers import LIMIT_S, Attempt, make_event, make_row


@pytest.fixture
async def live(app: FastAPI, client: httpx.AsyncClient) -> AsyncIterator[httpx.AsyncClient]:
    """The same service behind a real socket."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(app, lifespan="off", log_config=None, timeout_graceful_shutdown=5))
        serving = asyncio.create_task(server._serve([listener]))
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        async with httpx.AsyncClient(
            base_url=url, headers=client.headers, timeout=LIMIT_S, trust_env=False
        ) as connected:
            yield connected
        server.should_exit = True
        await serving


Messages = list[ServerSentEvent]


async def read(
    live: httpx.AsyncClient, job: str, enough: Callable[[Messages], bool], after: str | None = None
) -> Messages:
    """Read messages until there are enough, or the stream ends."""
    headers = {"Last-Event-ID": after} if after else {}
    found: Messages = []
    async with aconnect_sse(live, "GET", f"/v1/jobs/{job}/stream", headers=headers) as source:
        assert source.response.status_code == 200, await source.response.aread()
        async for message in source.aiter_sse():
            found.append(message)
            if enough(found):
                break
    return found


def never(_: Messages) -> bool:
    return False


def told(messages: Messages) -> list[Any]:
    """Events by kind and rows by step, in order."""
    return [
        m.json()["kind"] if m.event == "event" else m.json()["result"]["step"] for m in messages if m.event != "job"
    ]


def state(n: int, to: str) -> Any:
    return make_event(n, EventKind.STATE, state=to)


async def test_an_ended_job_is_told_whole_and_the_stream_ends(live: httpx.AsyncClient, attempt: Attempt) -> None:
    rows = [make_row(i) for i in range(2500)]
    await attempt.uplink(events=[state(1, "running")], rows=rows[:400])
    for start in range(400, 2500, 400):
        await attempt.uplink(rows=rows[start : start + 400])
    await attempt.uplink(events=[state(2, "succeeded")])
    messages = await read(live, attempt.job, never)
    assert told([m for m in messages if m.event == "row"]) == list(range(2500))
    assert told([m for m in messages if m.event == "event"]) == ["state"] * 4
    assert messages[-1].event == "job"
    assert messages[-1].json()["state"] == "succeeded"


async def test_news_come_as_they_happen(live: httpx.AsyncClient, attempt: Attempt) -> None:
    seen: asyncio.Queue[ServerSentEvent] = asyncio.Queue()

    async def follow() -> None:
        async with aconnect_sse(live, "GET", f"/v1/jobs/{attempt.job}/stream") as source:
            async for message in source.aiter_sse():
                seen.put_nowait(message)

    async def until(kind: str, true: Callable[[Any], bool]) -> Any:
        async with asyncio.timeout(LIMIT_S):
            while True:
                message = await seen.get()
                if message.event == kind and true(message.json()):
                    return message.json()

    following = asyncio.create_task(follow())
    await until("job", lambda v: v["state"] == "starting")
    await attempt.uplink(events=[state(1, "running")], rows=[make_row(0)])
    await until("row", lambda r: r["result"]["step"] == 0)
    await until("job", lambda v: v["state"] == "running")
    # a step that leaves a gap waits for the one before
    await attempt.uplink(rows=[make_row(2)])
    await attempt.uplink(rows=[make_row(1)])
    await until("row", lambda r: r["result"]["step"] == 1)
    await until("row", lambda r: r["result"]["step"] == 2)
    await attempt.uplink(events=[state(2, "succeeded")])
    await until("job", lambda v: v["state"] == "succeeded")
    await asyncio.wait_for(following, LIMIT_S)


@pytest.mark.parametrize("break_after", [1, 2, 3, 5, 8, 12])
async def test_resumed_anywhere_nothing_is_lost_or_doubled(
    break_after: int, live: httpx.AsyncClient, attempt: Attempt, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "_PAGE", 3)
    warnings = [make_event(n, EventKind.WARNING, message=str(n)) for n in range(2, 6)]
    await attempt.uplink(events=[state(1, "running"), *warnings], rows=[make_row(i) for i in range(7)])
    await attempt.uplink(events=[state(6, "succeeded")])
    whole = await read(live, attempt.job, never)
    first = await read(live, attempt.job, lambda found: len(found) == break_after)
    rest = await read(live, attempt.job, never, after=first[-1].id)
    for kind in ("event", "row"):
        of_kind = [[m.data for m in part if m.event == kind] for part in (first, rest, whole)]
        assert of_kind[0] + of_kind[1] == of_kind[2]


async def test_the_stream_ends_with_the_service(live: httpx.AsyncClient, service: Service, attempt: Attempt) -> None:
    reading = asyncio.create_task(read(live, attempt.job, never))
    async with asyncio.timeout(LIMIT_S):
        while f"news:{attempt.job}" not in service.wakeups.topics:  # noqa: ASYNC110 - the server is in this very loop
            await asyncio.sleep(0)
    service.wakeups.close()
    await asyncio.wait_for(reading, LIMIT_S)


async def test_a_cursor_that_is_none(client: httpx.AsyncClient, job: str) -> None:
    answer = await client.get(f"/v1/jobs/{job}/stream", headers={"Last-Event-ID": "yesterday"})
    assert answer.status_code == 422
