"""Whoever answers in the control plane's place does not fill an actor's memory: answers that actors read have an end."""

from __future__ import annotations

import asyncio
import gzip
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from surefoot_actors.launch import launcher
from surefoot_actors.uplink import http as http_uplink
from surefoot_actors.uplink.http import HttpUplink

MIB = 1024 * 1024
LONG = 256 * MIB
LIVENESS_S = 180.0


def _endless(handler: BaseHTTPRequestHandler) -> None:
    handler.end_headers()
    for _ in range(LONG // MIB):
        handler.wfile.write(b" " * MIB)


def _packed(handler: BaseHTTPRequestHandler) -> None:
    handler.send_header("Content-Encoding", "gzip")
    handler.end_headers()
    handler.wfile.write(PACKED)


PACKED = gzip.compress(b" " * LONG, 1)
ANSWERS: list[Callable[[BaseHTTPRequestHandler], None]] = [_endless, _packed]


@contextmanager
def answering(send: Callable[[BaseHTTPRequestHandler], None], status: int = 200) -> Iterator[str]:
    """A server that answers everything so."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            self.send_response(status)
            with suppress(ConnectionError):
                send(self)

        do_GET = do_POST

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def peak() -> Iterator[Callable[[], int]]:
    tracemalloc.start()
    yield lambda: tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()


@pytest.mark.parametrize("send", ANSWERS, ids=["endless", "packed"])
@pytest.mark.parametrize("status", [200, 403])
def test_of_a_claim(
    send: Callable[[BaseHTTPRequestHandler], None],
    status: int,
    monkeypatch: pytest.MonkeyPatch,
    peak: Callable[[], int],
) -> None:
    monkeypatch.setattr(launcher, "CLAIM_S", 0.1)
    with answering(send, status) as url, pytest.raises(launcher.LaunchError, match="could not be reached"):
        launcher.claim(url, "job-1", "c" * 64)
    assert peak() < 3 * launcher.MOST_BYTES


@pytest.mark.parametrize("send", ANSWERS, ids=["endless", "packed"])
async def test_of_an_uplink_and_of_commands(
    send: Callable[[BaseHTTPRequestHandler], None], monkeypatch: pytest.MonkeyPatch, peak: Callable[[], int]
) -> None:
    """It is as if nobody were there: tried again, and nothing forgotten."""
    away: list[object] = []
    enough = asyncio.Event()

    def note(state: object) -> None:
        away.append(state)
        if len(away) >= 4:
            enough.set()

    monkeypatch.setattr(http_uplink, "_tell", note)
    with answering(send) as url:
        uplink = HttpUplink(url, "job-1", "token", "s")
        await uplink.start()
        polling = asyncio.ensure_future(anext(uplink.commands()))
        try:
            async with asyncio.timeout(LIVENESS_S):
                await enough.wait()
        finally:
            polling.cancel()
            await asyncio.wait({polling})
            await uplink.close()
    assert not uplink.gone.is_set()
    assert peak() < 8 * http_uplink.MOST_BYTES
