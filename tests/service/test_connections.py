"""Connections, at sockets: silent, slow, half-closed and endless ones are bounded, and others are served meanwhile."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import resource
import socket
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import hypothesis
import pytest
from hypothesis import given
from hypothesis import strategies as st

from surefoot.events import EventKind
from surefoot_service.parts import Service
from surefoot_service.rest import server
from surefoot_service.rest.app import create_app
from surefoot_service.rest.connections import Limits, Phase, Pool, Standing
from surefoot_service.rest.server import Server
from surefoot_service.settings import Settings
from surefoot_service.wakeups import news_of

from .helpers import LIMIT_S, TRAIN, ZIP, make_event, make_zip, start_attempt

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]
SLOW_S = 0.6


class Door:
    """A service of its own at a port of loopback."""

    def __init__(self, server: Server, service: Service, port: int) -> None:
        self.server, self.service, self.port = server, service, port
        self.token = (service.settings.data / "token").read_text().strip()
        self.bearer = f"Authorization: Bearer {self.token}\r\n"
        self._open: list[asyncio.StreamWriter] = []

    async def connect(self, receive_bytes: int | None = None) -> Streams:
        sock = socket.socket()
        if receive_bytes is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", self.port))
        reader, writer = await asyncio.open_connection(sock=sock, limit=4096 if receive_bytes else 2**16)
        self._open.append(writer)
        return reader, writer

    async def raw(self, sent: bytes) -> bytes:
        """Send this, and return all that comes until the service closes."""
        reader, writer = await self.connect()
        writer.write(sent)
        return await end_of(reader)

    def client(self, *, token: bool = True) -> httpx.AsyncClient:
        headers = {"Authorization": f"Bearer {self.token}"} if token else {}
        return httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{self.port}", headers=headers, trust_env=False, timeout=LIMIT_S
        )

    def close(self) -> None:
        for writer in self._open:
            writer.transport.abort()


class Held:
    """The longest that one callback held the loop, in CPU time of its thread: however busy the machine is."""

    longest_s = 0.0

    @asynccontextmanager
    async def watched(self) -> AsyncIterator[None]:
        run = asyncio.events.Handle._run

        def timed(handle: Any) -> None:
            began = time.thread_time()
            run(handle)
            self.longest_s = max(self.longest_s, time.thread_time() - began)

        asyncio.events.Handle._run = timed  # type: ignore[method-assign, assignment]
        gc.disable()
        try:
            yield
        finally:
            asyncio.events.Handle._run = run  # type: ignore[method-assign]
            gc.enable()


async def end_of(reader: asyncio.StreamReader) -> bytes:
    """All that comes until the other side closes, or resets."""
    found = b""
    async with asyncio.timeout(LIMIT_S):
        try:
            while piece := await reader.read(2**16):
                found += piece
        except ConnectionError:
            pass
    return found


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(LIMIT_S):
        while not true():  # noqa: ASYNC110  the server is a task of this very loop
            await asyncio.sleep(0.01)


@asynccontextmanager
async def opened(data: Path, **more: Any) -> AsyncIterator[Door]:
    settings = Settings(data=data, **{"request_s": SLOW_S, "body_grace_s": SLOW_S, "unread_s": SLOW_S, **more})
    app = create_app(settings)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        made = Server(app, settings)
        serving = asyncio.create_task(made.serve(sockets=[listener]))
        await asyncio.wait_for(made.accepting.wait(), LIMIT_S)
        door = Door(made, app.state.service, listener.getsockname()[1])
        try:
            yield door
        finally:
            door.close()
            door.service.wakeups.close()
            made.should_exit = True
            await asyncio.wait_for(serving, LIMIT_S)


@pytest.fixture
async def door(tmp_path: Path) -> AsyncIterator[Door]:
    async with opened(tmp_path / "data") as made:
        yield made


# ---- how many


async def test_silent_connections_make_room_for_whoever_asks(tmp_path: Path) -> None:
    async with opened(tmp_path / "data", max_connections=200, request_s=LIMIT_S) as door:
        silent = [await door.connect() for _ in range(1100)]
        async with door.client() as client, door.client(token=False) as stranger:
            assert (await stranger.get("/v1/health")).status_code == 200
            assert (await client.get("/v1/jobs")).status_code == 200
            # it has brought a token: more silent ones do not push it out
            silent += [await door.connect() for _ in range(300)]
            await until(lambda: len(door.server.pool) <= 201)
            assert len(door.server.pool.known) == 1
            assert (await client.get("/v1/jobs")).status_code == 200
            assert len(door.server.server_state.connections) <= 202


# A service that may have no more than 1024 files open, as is usual; it says its port on standard output.
SERVICE = """
import asyncio, resource, socket, sys
from pathlib import Path
resource.setrlimit(resource.RLIMIT_NOFILE, (1024, 1024))
from surefoot_service.up import logs
from surefoot_service.rest.app import create_app
from surefoot_service.rest.server import Server
from surefoot_service.settings import Settings

async def serve():
    settings = Settings(data=Path(sys.argv[1]), request_s=60)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        server = Server(create_app(settings), settings)
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        await server.accepting.wait()
        print(listener.getsockname()[1], flush=True)
        await serving

logs.configure()
asyncio.run(serve())
"""


async def test_a_flood_of_silent_connections_leaves_a_process_its_files_and_its_log(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 8192)), hard))
    log = tmp_path / "log"
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", SERVICE, str(tmp_path / "data"), stdout=asyncio.subprocess.PIPE, stderr=output
        )
    silent: list[asyncio.StreamWriter] = []
    try:
        assert process.stdout is not None
        port = int(await asyncio.wait_for(process.stdout.readline(), LIMIT_S))
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=LIMIT_S) as client:
            for _ in range(5):
                for _ in range(300):
                    _, writer = await asyncio.wait_for(asyncio.open_connection("127.0.0.1", port), LIMIT_S)
                    silent.append(writer)
                # each time on a connection of its own
                answer = await client.get("/v1/health", headers={"connection": "close"})
                assert answer.status_code == 200
    finally:
        for writer in silent:
            writer.transport.abort()
        process.kill()
        await process.wait()
    assert len(log.read_text().splitlines()) < 100


@pytest.mark.parametrize(("files", "most"), [(100_000, 1000), (1024, 576), (256, 16)])
def test_there_are_never_more_connections_than_files(
    files: int, most: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(server, "_files", lambda: files)
    assert server._limits(Settings(data=tmp_path)).most == most


async def test_room_is_kept_for_health_and_attempts(tmp_path: Path) -> None:
    async with opened(tmp_path / "data", max_connections=1, unread_s=LIMIT_S) as door:
        most = door.server.pool.limits.most
        job = await submitted(door)
        watchers = [await watch(door, job) for _ in range(most)]
        await until(lambda: len(door.server.pool.known) >= most)
        async with door.client() as client, door.client(token=False) as stranger:
            full = await client.get("/v1/jobs")
            assert (full.status_code, full.headers["content-type"]) == (503, "application/problem+json")
            assert full.headers["retry-after"]
            assert (await stranger.get("/v1/health")).status_code == 200
            attempt = await start_attempt(door.service, client, job)
            assert (await attempt.claim()).status_code == 200
        assert len(door.server.pool.known) >= most
        for _, writer in watchers:
            writer.close()


async def submitted(door: Door) -> str:
    async with door.client() as client:
        package = (await client.post("/v1/packages", content=make_zip({"train.py": TRAIN}), headers=ZIP)).json()
        spec = {"entrypoint": "train:train", "package": package["package"], "batch_size": 8}
        return str((await client.post("/v1/jobs", json=spec)).json()["id"])


async def watch(door: Door, job: str, receive_bytes: int | None = None) -> Streams:
    reader, writer = await door.connect(receive_bytes)
    writer.write(f"GET /v1/jobs/{job}/stream HTTP/1.1\r\nHost: x\r\n{door.bearer}\r\n".encode())
    await reader.readuntil(b"\r\n\r\n")
    return reader, writer


# ---- how long


async def test_a_connection_that_never_asks_is_closed(door: Door) -> None:
    assert await door.raw(b"") == b""


async def test_headers_that_come_a_byte_at_a_time(door: Door) -> None:
    reader, writer = await door.connect()
    ended = asyncio.create_task(end_of(reader))
    sent = 0
    for byte in b"GET /v1/health HTTP/1.1\r\nHost: " + b"x" * 10_000:
        if ended.done() or writer.is_closing():
            break
        writer.write(bytes([byte]))
        sent += 1
        await asyncio.sleep(SLOW_S / 10)
    assert await ended == b""
    assert sent < 200


async def test_one_byte_does_not_keep_an_idle_connection(door: Door) -> None:
    """It did: whatever came ended the wait for the next request, and nothing bounded that."""
    reader, writer = await door.connect()
    writer.write(b"GET /v1/health HTTP/1.1\r\nHost: x\r\n\r\n")
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b"G")
    assert b"HTTP/1.1" not in await end_of(reader)


@pytest.mark.parametrize("secured", [False, True])
async def test_a_body_that_comes_too_slowly(secured: bool, door: Door) -> None:
    path, bearer = ("/v1/jobs", door.bearer) if secured else ("/v1/attempts/x-1/claim", "")
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\n{bearer}Content-Type: application/json\r\nContent-Length: 4000\r\n\r\n"
    reader, writer = await door.connect()
    writer.write(head.encode())
    ended = asyncio.create_task(end_of(reader))
    while not ended.done():
        writer.write(b" ")
        await asyncio.sleep(SLOW_S / 10)
    assert (await ended).startswith(b"HTTP/1.1 408 ")


async def test_a_body_at_a_bearable_pace_is_taken(door: Door) -> None:
    body = b'{"code": "' + b"x" * 40 + b'"}'
    reader, writer = await door.connect()
    head = f"POST /v1/attempts/x-1/claim HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    writer.write(head.encode())
    for byte in body:
        writer.write(bytes([byte]))
        await asyncio.sleep(SLOW_S / 1000)
    assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 403 ")


async def test_half_closed_connections_end(door: Door) -> None:
    for sent in (
        b"",
        b"GET /v1/he",
        b"GET /v1/health HTTP/1.1\r\nHost: x\r\n\r\n",
        b"POST /v1/jobs HTTP/1.1\r\nHost: x\r\n",
    ):
        reader, writer = await door.connect()
        writer.write(sent)
        writer.write_eof()
        await end_of(reader)
    await until(lambda: len(door.server.pool) == 0)


async def test_a_watcher_that_never_reads_is_ended(door: Door) -> None:
    job = await submitted(door)
    async with door.client() as client:
        attempt = await start_attempt(door.service, client, job)
        await attempt.claim()
        text = "x" * 90_000
        for n in range(1, 60, 10):
            events = [make_event(m, EventKind.WARNING, message=text) for m in range(n, n + 10)]
            assert (await attempt.uplink(events=events)).status_code == 200
    before = len(door.server.pool)
    _, writer = await watch(door, job, receive_bytes=4096)
    writer.transport.pause_reading()  # type: ignore[attr-defined]
    await until(lambda: len(door.server.pool) <= before)
    await until(lambda: news_of(job) not in door.service.wakeups.topics)


async def test_answers_that_are_never_read_are_bounded(door: Door) -> None:
    """Small ones too: a connection that is closed waits for what is written to be read."""
    reader, writer = await door.connect(4096)
    writer.transport.pause_reading()  # type: ignore[attr-defined]
    writer.write(b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n" * 200)
    await until(lambda: len(door.server.pool) == 1)
    await until(lambda: len(door.server.pool) == 0)
    assert reader.at_eof() is False


async def test_what_is_answered_early_is_read_no_further(door: Door) -> None:
    """The answer is there, and what is sent after it is thrown away, for a bounded while."""
    reader, writer = await door.connect()
    writer.write(
        b"POST /v1/jobs HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nContent-Type: application/json\r\n\r\n"
    )
    answer = await reader.readuntil(b"\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 401 ")
    assert b"connection: close" in answer.lower()
    await reader.read(4096)

    async def send_for_ever() -> None:
        while True:
            writer.write(b"1000\r\n" + b"x" * 4096 + b"\r\n")
            await writer.drain()

    with pytest.raises(ConnectionError):
        await asyncio.wait_for(send_for_ever(), LIMIT_S)
    await until(lambda: len(door.server.pool) == 0)


async def test_a_refused_upload_reads_why(door: Door) -> None:
    """The sender of a long body gets the answer, rather than a connection that was reset."""
    async with door.client(token=False) as stranger:
        answer = await stranger.post("/v1/packages", content=bytes(5_000_000), headers=ZIP)
    assert answer.status_code == 401


async def test_chunks_of_one_byte_hold_nobody_up(door: Door) -> None:
    """Each costs the parser as much as a large one does: others are served in between."""
    held = Held()
    reader, writer = await door.connect()
    writer.write(
        b"POST /v1/attempts/x-1/claim HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nContent-Type: application/json\r\n\r\n"
    )
    async with held.watched(), door.client(token=False) as stranger:
        writer.write(b"1\r\na\r\n" * 200_000)
        assert (await stranger.get("/v1/health")).status_code == 200
        assert b" 413 " in await end_of(reader)
    assert held.longest_s <= 0.1


async def test_others_are_served_while_a_stranger_sends_much(door: Door) -> None:
    held = Held()
    body = b'{"events":[0' + b",0" * 500_000 + b"]}"
    async with held.watched(), door.client(token=False) as stranger, door.client() as client:
        answers = await asyncio.gather(
            *(
                stranger.post(f"/v1/attempts/x/{what}", content=body, headers={"content-type": "application/json"})
                for what in ("uplink", "claim") * 3
            ),
            client.get("/v1/jobs"),
            stranger.get("/v1/health"),
        )
    assert [a.status_code for a in answers] == [401, 413] * 3 + [200, 200]
    assert held.longest_s <= 0.1


# ---- what is no request, or two

JSON_HEAD = b"POST /v1/attempts/x-1/claim HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
NO_REQUESTS = {
    "no HTTP": b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n",
    "an old one": b"GET /v1/health\r\n\r\n",
    "no host": b"GET /v1/health HTTP/1.1\r\n\r\n",
    "a negative length": JSON_HEAD + b"Content-Length: -5\r\n\r\n",
    "a length of words": JSON_HEAD + b"Content-Length: five\r\n\r\n",
    "a length with a sign": JSON_HEAD + b"Content-Length: +5\r\n\r\n",
    "two lengths": JSON_HEAD + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\n12345",
    "a length and chunks": JSON_HEAD + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "another encoding": JSON_HEAD + b"Transfer-Encoding: gzip, chunked\r\n\r\n",
    "chunked twice": JSON_HEAD + b"Transfer-Encoding: chunked, chunked\r\n\r\n",
    "a broken chunk": JSON_HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
    "an endless size of a chunk": JSON_HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + b"0" * 100_000,
    "a header of a megabyte": b"GET /v1/health HTTP/1.1\r\nHost: x\r\nX: " + b"x" * 1_000_000,
    "many headers": b"GET /v1/health HTTP/1.1\r\n" + b"X: y\r\n" * 100_000,
    "a header without a name": b"GET /v1/health HTTP/1.1\r\nHost: x\r\n: y\r\n\r\n",
    "a space before the colon": JSON_HEAD + b"Content-Length : 5\r\n\r\n",
    "two types": JSON_HEAD + b"Content-Type: text/plain\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}",
    "a hundred gigabytes": JSON_HEAD + b"Content-Length: 100000000000\r\n\r\n",
    "a length of a thousand digits": JSON_HEAD + b"Content-Length: " + b"9" * 1000 + b"\r\n\r\n",
}


@pytest.mark.parametrize("case", NO_REQUESTS)
async def test_what_is_no_request_is_refused_and_closed(
    case: str, door: Door, caplog: pytest.LogCaptureFixture
) -> None:
    answer = await door.raw(NO_REQUESTS[case])
    status = int(answer.split(b" ", 2)[1]) if answer else None
    assert status in (None, 400, 413), answer
    assert answer.count(b"HTTP/1.1") <= 1
    if answer:
        head, _, body = answer.partition(b"\r\n\r\n")
        assert b"application/problem+json" in head
        assert json.loads(body)["status"] == status
    async with door.client(token=False) as stranger:
        assert (await stranger.get("/v1/health")).status_code == 200
    assert [r for r in caplog.records if r.exc_info or r.levelno >= logging.ERROR] == []


GOOD = (
    b"GET /v1/health HTTP/1.1\r\nHost: x\r\n\r\n",
    JSON_HEAD + b"Content-Length: 2\r\n\r\n{}",
    JSON_HEAD + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
    JSON_HEAD + b"Expect: 100-continue\r\nContent-Length: 2\r\n\r\n{}",
)
PIECES = st.lists(st.sampled_from(GOOD) | st.binary(max_size=40), min_size=1, max_size=4)
CUTS = st.lists(st.tuples(st.integers(0, 200), st.binary(max_size=3)), max_size=3)


@pytest.fixture(scope="module")
def runner() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as made:
        yield made


@pytest.fixture(scope="module")
def lasting(runner: asyncio.Runner, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Door]:
    """One service for many examples."""
    context = opened(tmp_path_factory.mktemp("lasting") / "data", request_s=0.05, body_grace_s=0.05, unread_s=0.05)
    made = runner.run(context.__aenter__())
    made.server.pool.limits = replace(made.server.pool.limits, discard_s=0.05)
    yield made
    runner.run(context.__aexit__(None, None, None))


@given(pieces=PIECES, cuts=CUTS, wait=st.booleans())
@hypothesis.settings(
    max_examples=60, deadline=None, derandomize=True, database=None, suppress_health_check=list(hypothesis.HealthCheck)
)
def test_any_bytes_are_answered_or_refused(
    pieces: list[bytes],
    cuts: list[tuple[int, bytes]],
    wait: bool,
    lasting: Door,
    runner: asyncio.Runner,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Requests that are cut, changed, and laid end to end."""
    sent = b"".join(pieces)
    for at, other in cuts:
        sent = sent[:at] + other + sent[at + 1 :]

    async def exchange() -> bytes:
        reader, writer = await lasting.connect()
        writer.write(sent)
        if not wait:
            writer.write_eof()
        found = await end_of(reader)
        await until(lambda: len(lasting.server.pool) == 0 and not lasting.server.server_state.tasks)
        return found

    for line in runner.run(exchange()).split(b"HTTP/1.1 ")[1:]:
        assert int(line[:3]) < 500
    assert [r for r in caplog.records if r.exc_info or r.levelno >= logging.ERROR] == []


async def test_an_upgrade_is_no_upgrade(door: Door) -> None:
    answer = await door.raw(
        b"GET /v1/health HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, close\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    assert answer.startswith(b"HTTP/1.1 200 ")


async def test_an_upload_that_breaks_off_is_no_error_of_the_service(
    door: Door, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = door.service.packages.folder
    for path, kind in (("/v1/packages", "application/zip"), ("/v1/jobs", "application/json")):
        _, writer = await door.connect()
        head = f"POST {path} HTTP/1.1\r\nHost: x\r\n{door.bearer}Content-Type: {kind}\r\nContent-Length: 100000\r\n\r\n"
        writer.write(head.encode() + b"x" * 1000)
        await writer.drain()
        if "packages" in path:
            await until(lambda: any(folder.iterdir()))
        writer.transport.abort()
        await until(lambda: len(door.server.pool) == 0 and not door.server.server_state.tasks)
    assert list(folder.iterdir()) == []
    assert [r for r in caplog.records if r.levelno >= logging.WARNING] == []
    assert "request_failed" not in "".join(capsys.readouterr())


# ---- the pool and its phases, pure

LIMITS = Limits(most=3, kept=2, request_s=10, unread_s=5)


class One:
    def __init__(self) -> None:
        self.standing = Standing(since=0.0)


@given(st.lists(st.sampled_from(["come", "know", "ask", "answered", "leave"]), max_size=60), st.randoms())
def test_nobody_with_a_token_goes_for_one_without(moves: list[str], random: Any) -> None:
    pool: Pool[One] = Pool(limits=LIMITS)
    for move in moves:
        there = list(pool)
        match move:
            case "come":
                new = One()
                busy = [c for c in pool.known if c.standing.phase is Phase.ANSWERING]
                leaving = pool.add(new)
                if leaving is not None:
                    assert leaving not in busy
                    if leaving in pool.known:
                        assert not [c for c in pool.strangers if c is not new]
                    pool.remove(leaving)
            case "leave" if there:
                pool.remove(random.choice(there))
            case "know" if there:
                pool.know(random.choice(there))
            case "ask" if there:
                random.choice(there).standing.turn(Phase.ANSWERING, 0.0)
            case "answered" if there:
                random.choice(there).standing.turn(Phase.WAITING, 0.0)
        assert len(pool) <= LIMITS.most + LIMITS.kept
        assert len(pool.strangers) <= max(LIMITS.most, LIMITS.kept)


@given(st.sampled_from(list(Phase)), st.floats(0, 100), st.none() | st.floats(0, 100))
def test_only_an_answer_that_is_read_may_take_for_ever(phase: Phase, now: float, unread: float | None) -> None:
    standing = Standing(since=0.0, phase=phase, unread_since=unread)
    bounded = phase is not Phase.ANSWERING or unread is not None
    assert standing.overdue(LIMITS, 200.0) == bounded
    if now <= 2 and (unread is None or now - unread <= 5):
        assert not standing.overdue(LIMITS, now)
