"""A collector on loopback that takes traces by OTLP over HTTP, as any does."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest


class Receiver:
    """What has come, request by request; `refuse` is the status that it answers with instead, for a while."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop, self._came = loop, asyncio.Event()
        self.requests: list[ExportTraceServiceRequest] = []
        self.headers: list[dict[str, str]] = []
        self.refuse = 0
        self.refused = 0
        self.url = ""

    def take(self, path: str, headers: dict[str, str], body: bytes) -> int:
        """Called on a thread of the server's."""
        if path != "/v1/traces":
            return 404
        if status := self.refuse:
            self.refused += 1
        else:
            self.requests.append(ExportTraceServiceRequest.FromString(body))
            self.headers.append({name.lower(): value for name, value in headers.items()})
        self._loop.call_soon_threadsafe(self._came.set)
        return status or 200

    async def until(self, *, requests: int = 0, refused: int = 0, within_s: float = 30.0) -> None:
        """Wait until so much has come."""
        async with asyncio.timeout(within_s):
            while len(self.requests) < requests or self.refused < refused:
                self._came.clear()
                await self._came.wait()

    def spans(self, request: int = -1) -> list[Any]:
        (resource,) = self.requests[request].resource_spans
        return [span for scope in resource.scope_spans for span in scope.spans]


@contextmanager
def receiving(loop: asyncio.AbstractEventLoop) -> Iterator[Receiver]:
    """Receive inside the block."""
    receiver = Receiver(loop)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            self.send_response(receiver.take(self.path, dict(self.headers), body))
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        receiver.url = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, name="collector", daemon=True)
        thread.start()
        try:
            yield receiver
        finally:
            server.shutdown()
            thread.join()
