"""One request handed to the app as a server would, and what it cost: the loop's time, memory, and how much of its body was taken."""

from __future__ import annotations

import gc
import time
import tracemalloc
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI

PIECE = 64 * 1024


@dataclass(frozen=True, kw_only=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes
    # bytes of the request's body that the app asked for
    taken: int
    # CPU time of the loop's thread: it is held no longer than that, however busy the machine is
    loop_s: float


Headers = Iterable[tuple[str, str]]


async def ask(app: FastAPI, method: str, path: str, body: bytes = b"", headers: Headers = ()) -> Answer:
    """Send the body in pieces; the app takes as many of them as it likes."""
    pieces = [body[at : at + PIECE] for at in range(0, len(body), PIECE)] or [b""]
    taken, sent = 0, list[dict[str, Any]]()
    given = iter(enumerate(pieces))

    async def receive() -> dict[str, Any]:
        nonlocal taken
        found = next(given, None)
        if found is None:
            return {"type": "http.disconnect"}
        number, piece = found
        taken += len(piece)
        return {"type": "http.request", "body": piece, "more_body": number + 1 < len(pieces)}

    async def send(message: Any) -> None:
        sent.append(message)

    raw, _, query = path.partition("?")
    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": raw,
        "raw_path": raw.encode(),
        "query_string": query.encode(),
        "root_path": "",
        "headers": [(k.lower().encode(), v.encode("latin-1")) for k, v in headers],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 2),
    }
    # what the tests before have left is not the request's to collect
    gc.collect(0)
    gc.disable()
    began = time.thread_time()
    try:
        await app(scope, receive, send)
    finally:
        loop_s = time.thread_time() - began
        gc.enable()
    start = sent[0]
    return Answer(
        status=start["status"],
        headers={k.decode().lower(): v.decode() for k, v in start["headers"]},
        body=b"".join(m.get("body", b"") for m in sent[1:]),
        taken=taken,
        loop_s=loop_s,
    )


async def peak_bytes(app: FastAPI, method: str, path: str, body: bytes, headers: Headers = ()) -> int:
    """How much memory a request takes at most, beside its body."""
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        await ask(app, method, path, body, headers)
        return tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()
