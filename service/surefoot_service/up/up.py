"""`surefoot up`: the service in the foreground, with a Ray head of its own unless a cluster is named."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from collections.abc import Awaitable, Iterator
from contextlib import contextmanager
from pathlib import Path

from pydantic import ValidationError
from rich.markup import escape

from surefoot._loopback import keep_loopback_direct
from surefoot.cli.printing import PlainConsole
from surefoot.errors import SurefootError, UserError
from surefoot.spec import JobState
from surefoot_service.cluster.local_head import RayHead, clear_leftovers
from surefoot_service.data_folder import announced, locked
from surefoot_service.parts import Service
from surefoot_service.reconciler.loop import reconciling
from surefoot_service.rest.app import create_app
from surefoot_service.rest.server import Server
from surefoot_service.settings import Settings
from surefoot_service.store import overview
from surefoot_service.tracing.exporter import check_traces
from surefoot_service.up import logs
from surefoot_service.wakeups import news_of

__all__ = ["up"]

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_LOOPBACK = ("127.0.0.1", "localhost", "::1")

console = PlainConsole(stderr=True, highlight=False, soft_wrap=True)


def up(
    *,
    data: Path | None = None,
    host: str | None = None,
    port: int | None = None,
    ray_address: str | None = None,
    cpus: int | None = None,
    as_json: bool = False,
) -> None:
    """Serve until Ctrl-C or SIGTERM, then stop all that was started here; a second Ctrl-C does so at once.

    Jobs on a head of its own are cancelled with it; those on a cluster named by `ray_address` go on without the service.
    A head of its own that dies gets a successor, on which its jobs go on. Raises UserError for a folder or port in use, HeadError
    when a head does not start. `as_json`: log lines are JSON.
    """
    settings = _settings({"data": data, "host": host, "port": port, "ray_address": ray_address})
    logs.configure(as_json=as_json)
    check_traces(os.environ)
    keep_loopback_direct(os.environ)
    with locked(settings.data), _listening(settings) as (listener, bound):
        if clear_leftovers(bound.data):
            console.print("An earlier `surefoot up` was killed; what its Ray head had left is removed.")
        heads = _Heads(bound.data, cpus) if bound.ray_address is None else None
        asyncio.run(_serve(bound, listener, heads))
    console.print("Stopped.")


def _settings(given: dict[str, object]) -> Settings:
    try:
        return Settings.model_validate({**Settings().model_dump(), **{k: v for k, v in given.items() if v is not None}})
    except ValidationError as error:
        first = error.errors()[0]
        raise UserError(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from error


@contextmanager
def _listening(settings: Settings) -> Iterator[tuple[socket.socket, Settings]]:
    """Yield the bound socket, and the settings with the port that it got."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    with socket.socket(family) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((settings.host, settings.port))
        except OSError as error:
            where = f"{settings.host}:{settings.port}"
            raise UserError(f"cannot listen on {where}: {error.strerror}; name another by --host or --port") from error
        yield listener, settings.model_copy(update={"port": listener.getsockname()[1]})


class _Heads:
    """The Ray head of this `up`, and its successors: one at a time."""

    def __init__(self, data: Path, cpus: int | None) -> None:
        self._data, self._cpus = data, cpus
        # made at once, so that what a killed `up` leaves is on record before anything is started
        self.now = RayHead(data, cpus=cpus)

    async def succeed(self) -> None:
        """Remove what a dead head has left, and put another in its place."""
        await self.now.stop()
        self.now = RayHead(self._data, cpus=self._cpus)


async def _serve(settings: Settings, listener: socket.socket, heads: _Heads | None) -> None:
    """Serve until told to stop, or until the server ends or a head does not start; nothing is left of either."""
    app = create_app(settings)
    server, told = Server(app, settings), asyncio.Event()
    with _signals(told, heads):
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        try:
            await _first_of(serving, server.accepting.wait())
            if server.should_exit or serving.done():
                raise SurefootError("the service could not start; the lines above say why")
            with announced(settings.data, settings.url):
                _greet(settings)
                if heads is None:
                    await _first_of(serving, told.wait())
                else:
                    app.state.service.cluster.expected = True
                    await _with_heads(app.state.service, heads, serving, told)
        finally:
            if isinstance(service := getattr(app.state, "service", None), Service):
                service.wakeups.close()
            server.should_exit = True
            await asyncio.gather(serving, return_exceptions=True)
            if heads is not None:
                await heads.now.stop()


async def _with_heads(service: Service, heads: _Heads, serving: asyncio.Task[None], told: asyncio.Event) -> None:
    """Run jobs on a head, and on the next when that one dies, until told to stop. Raises HeadError when one does not start."""
    while await _until_ready(heads.now, serving, told):
        console.print("The local Ray head is ready.")
        head = heads.now
        async with reconciling(service, head.address, head.token, sys.executable):
            await _first_of(serving, told.wait(), head.ended())
        if told.is_set() or serving.done():
            await _end_jobs(service, JobState.CANCELLED, "`surefoot up`, on whose Ray head it ran, was stopped")
            return
        console.print(
            "The local Ray head died; another is starting, on which its jobs go on from their newest checkpoints."
        )
        await heads.succeed()


async def _until_ready(head: RayHead, serving: asyncio.Task[None], told: asyncio.Event) -> bool:
    """Start the head; return whether it is ready, rather than that all is to stop."""
    await head.start()
    ready = asyncio.create_task(head.ready())
    try:
        await _first_of(ready, serving, told.wait())
    finally:
        if not ready.done():
            ready.cancel()
            await asyncio.gather(ready, return_exceptions=True)
    if ready.cancelled():
        return False
    ready.result()
    return True


async def _end_jobs(service: Service, state: JobState, reason: str) -> None:
    for job in await service.database.write(overview.end_all, state, reason=reason, now=service.now()):
        service.wakeups.wake(news_of(job))


async def _first_of(*waits: Awaitable[object]) -> None:
    """Return when one of them is done; what was made for the waiting is ended, tasks that were given go on."""
    tasks = {wait if isinstance(wait, asyncio.Task) else asyncio.ensure_future(wait) for wait in waits}
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        made = tasks.difference(w for w in waits if isinstance(w, asyncio.Task))
        for task in made:
            task.cancel()
        await asyncio.gather(*made, return_exceptions=True)


def _greet(settings: Settings) -> None:
    url, data = escape(settings.url), escape(str(settings.data))
    console.print(f"Surefoot listens on [bold]{url}[/bold]; everything is kept in {data}")
    where = escape(settings.ray_address or "a local head, which is starting")
    console.print(f"Ray: {where}. Jobs wait in the queue until it is ready.")
    if settings.ray_address and settings.public_url is None and settings.host in _LOOPBACK:
        console.print(f"The cluster must reach {url}; if it runs elsewhere, set --host and SUREFOOT_PUBLIC_URL.")
    console.print("Try, in another terminal: [bold]surefoot submit train:train --batch-size 64[/bold]")
    console.print("Ctrl-C stops it.")


@contextmanager
def _signals(told: asyncio.Event, heads: _Heads | None) -> Iterator[None]:
    """Tell of the first signal; at the second, end everything at once."""

    def on_signal() -> None:
        if told.is_set():
            if heads is not None:
                heads.now.kill()
            os._exit(130)
        console.print("Stopping; once more stops at once.")
        told.set()

    loop = asyncio.get_running_loop()
    for number in _SIGNALS:
        loop.add_signal_handler(number, on_signal)
    try:
        yield
    finally:
        for number in _SIGNALS:
            loop.remove_signal_handler(number)
