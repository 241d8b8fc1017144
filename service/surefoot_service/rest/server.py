"""The HTTP server: uvicorn's, with bounds on how many connections there are and how long each may keep it waiting.

uvicorn bounds idle connections once they have been answered, and nothing else: neither those that never ask, nor those that ask slowly,
leave a body half sent, or do not read what they asked for.
"""

from __future__ import annotations

import asyncio
import contextlib
import resource
import socket
from collections.abc import Iterator
from typing import Any, cast

import h11
import uvicorn
from fastapi import FastAPI
from starlette.types import Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from surefoot.views import Problem
from surefoot_service.rest.connections import Limits, Phase, Pool, Standing
from surefoot_service.rest.problems import problem_response
from surefoot_service.settings import KIB, MIB, Settings

__all__ = ["BoundedProtocol", "Server"]

# how long an answer that is under way may take at the end; streams and polls are told, and end at once
_LAST_ANSWERS_S = 5
# connections that wait to be accepted; asyncio accepts as many in one go, before any of them can be refused
_BACKLOG = 128
# places for health, metrics and attempts alone
_KEPT = 64
_KEPT_FOR = ("/v1/health", "/v1/ready", "/v1/attempts/", "/metrics")
# files that the service itself has open: database, packages, its cluster
_OWN_FILES = 256
_WANTED_FILES = 65_536
# how much is taken from a connection in one go: bodies in chunks of one byte cost some microseconds a chunk, and others wait meanwhile
_READ_BYTES = 16 * KIB
# of a body that nobody wants so much is thrown away, so that its sender gets to read why
_DISCARD_BYTES = 8 * MIB
# how often it is looked at who has kept the service waiting
_SWEEP_S = 0.5
# a machine that is gone says nothing; the kernel finds that out
_PEER_S = 60


class _Config(uvicorn.Config):
    def __init__(self, app: Any, settings: Settings, **more: Any) -> None:
        super().__init__(
            app,
            http=BoundedProtocol,
            ws="none",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            backlog=_BACKLOG,
            timeout_keep_alive=int(settings.request_s) + 1,
            timeout_graceful_shutdown=_LAST_ANSWERS_S,
            **more,
        )
        self.pool: Pool[BoundedProtocol] = Pool(limits=_limits(settings))


def _limits(settings: Settings) -> Limits:
    most = max(16, min(settings.max_connections, _files() - _OWN_FILES - _BACKLOG - _KEPT))
    return Limits(most=most, kept=_KEPT, request_s=settings.request_s, unread_s=settings.unread_s)


def _files() -> int:
    """How many files the process may have open, having asked for as many as it is allowed to."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _WANTED_FILES if hard == resource.RLIM_INFINITY else min(_WANTED_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        return wanted
    return _WANTED_FILES if soft == resource.RLIM_INFINITY else soft


class Server(uvicorn.Server):
    """Leaves signals to whoever runs it, and says when it accepts connections."""

    def __init__(self, app: FastAPI, settings: Settings, *, lifespan: bool = True) -> None:
        self._own = _Config(app, settings, lifespan="on" if lifespan else "off")
        super().__init__(self._own)
        self.accepting = asyncio.Event()
        self._sweeper: asyncio.Task[None] | None = None

    @property
    def pool(self) -> Pool[BoundedProtocol]:
        return self._own.pool

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._sweeper = asyncio.create_task(self._sweep(), name="connections")
        self.accepting.set()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        try:
            await super().shutdown(sockets)
        finally:
            if self._sweeper is not None:
                self._sweeper.cancel()
                await asyncio.wait({self._sweeper})

    async def _sweep(self) -> None:
        """End connections that have kept the service waiting for too long, until cancelled."""
        loop = asyncio.get_running_loop()
        pause_s = min(_SWEEP_S, self.pool.limits.request_s / 2)
        while True:
            await asyncio.sleep(pause_s)
            for connection in self.pool:
                if connection.standing.overdue(self.pool.limits, loop.time()):
                    connection.give_up()


class _Transport:
    """The connection as uvicorn sees it: to close it, whoever still sends is let finish, within bounds."""

    def __init__(self, transport: asyncio.Transport, protocol: BoundedProtocol) -> None:
        self._transport, self._protocol = transport, protocol

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def close(self) -> None:
        self._protocol.finish()


class BoundedProtocol(H11Protocol):
    """One connection."""

    def __init__(
        self,
        config: _Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._pool = config.pool
        self._inner, self.app = self.app, self._serve
        self._raw: asyncio.Transport = cast(asyncio.Transport, None)
        self._discarded = 0
        # whether it has one of the places that are kept for health and attempts
        self._extra = False
        self.standing = Standing(since=self.loop.time())

    # ---- asyncio's side

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._raw = transport
        self.transport = cast(asyncio.Transport, _Transport(transport, self))
        transport.max_size = _READ_BYTES  # type: ignore[attr-defined]
        _watch_peer(transport.get_extra_info("socket"))
        self.standing = Standing(since=self.loop.time())
        if (leaving := self._pool.add(self)) is not None:
            # at once, as others may come before the loop tells of its end
            self._pool.remove(leaving)
            leaving.abort()
        self._extra = self._pool.crowded

    def connection_lost(self, exc: Exception | None) -> None:
        self._pool.remove(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self.standing.phase in (Phase.DISCARDING, Phase.CLOSING):
            self._discarded += len(data)
            if self._discarded > _DISCARD_BYTES:
                self.abort()
            return
        super().data_received(data)
        self._note_phase()

    def pause_writing(self) -> None:
        self.standing.unread_since = self.loop.time()
        super().pause_writing()

    def resume_writing(self) -> None:
        self.standing.unread_since = None
        super().resume_writing()

    # ---- uvicorn's side

    def on_response_complete(self) -> None:
        if self.standing.phase is Phase.ANSWERING:
            self.standing.turn(Phase.WAITING, self.loop.time())
        super().on_response_complete()
        self._note_phase()

    def send_400_response(self, msg: str) -> None:
        """Answer what is no HTTP; the request that it broke off, if any, is over."""
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            answer = problem_response(Problem(title="Bad Request", status=400, detail=msg), {"connection": "close"})
            head = h11.Response(status_code=400, headers=answer.raw_headers, reason=b"Bad Request")
            for event in (head, h11.Data(data=bytes(answer.body)), h11.EndOfMessage()):
                self._raw.write(self.conn.send(event) or b"")
        self.finish()

    def timeout_keep_alive_handler(self) -> None:
        self.give_up()

    # ---- ours

    def give_up(self) -> None:
        """It has kept the service waiting for too long: close it, and if it is closing already, end it."""
        if self.standing.phase is Phase.WAITING and not self._raw.is_closing():
            self._close()
        else:
            self.abort()

    def abort(self) -> None:
        self._raw.abort()

    def finish(self) -> None:
        """Close once what is written has been sent; what is still being sent to us is thrown away meanwhile, for a while."""
        if self._raw.is_closing() or self.standing.phase is Phase.DISCARDING:
            return
        if self.conn.their_state in (h11.SEND_BODY, h11.ERROR) and self._raw.can_write_eof():
            # Closed at once, the kernel would reset the connection, and the sender might never read the answer.
            self.standing.turn(Phase.DISCARDING, self.loop.time())
            self._raw.write_eof()
            self.flow.resume_reading()
        else:
            self._close()

    def _close(self) -> None:
        self.standing.turn(Phase.CLOSING, self.loop.time())
        self._raw.close()

    def _note_phase(self) -> None:
        is_asked = self.cycle is not None and not self.cycle.response_complete
        if is_asked and self.standing.phase is Phase.WAITING:
            self.standing.turn(Phase.ANSWERING, self.loop.time())

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def closing(message: Message) -> None:
            if message["type"] == "http.response.start" and self.conn.their_state is h11.SEND_BODY:
                # Answered before all of it has come: nothing that follows on this connection would be a request.
                message = {**message, "headers": [*message.get("headers", ()), (b"connection", b"close")]}
            await send(message)

        if self._extra and self._pool.crowded and not str(scope["path"]).startswith(_KEPT_FOR):
            detail = f"the service has all of its {self._pool.limits.most} connections in use; the same request later may be done"
            full = Problem(title="Service Unavailable", status=503, detail=detail)
            await problem_response(full, {"Retry-After": "2", "connection": "close"})(scope, receive, closing)
            return
        scope["surefoot.admit"] = lambda: self._pool.know(self)
        await cast(Any, self._inner)(scope, receive, closing)


def _watch_peer(connection: socket.socket | None) -> None:
    """Have the kernel end a connection whose other end is gone without a word."""
    if connection is None or connection.family not in (socket.AF_INET, socket.AF_INET6):
        return
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in (("TCP_KEEPIDLE", _PEER_S // 2), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 3)):
        if hasattr(socket, option):
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _PEER_S * 1000)
