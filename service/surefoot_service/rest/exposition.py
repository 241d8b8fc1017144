"""The metrics as Prometheus reads them, and the port of their own."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from functools import partial
from importlib.metadata import version
from itertools import chain

from fastapi import FastAPI
from prometheus_client.core import Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector, CollectorRegistry
from starlette.requests import Request
from starlette.responses import Response

from surefoot.errors import UserError
from surefoot_service.metrics.snapshot import Snapshot, families
from surefoot_service.parts import Service
from surefoot_service.rest import problems
from surefoot_service.rest.server import Server
from surefoot_service.store import gauges, usage
from surefoot_service.store.database import StoreAwayError

__all__ = ["metrics_port", "render"]

_VERSION = version("surefoot")


class _All(Collector):
    """What is counted, and what is so at the moment."""

    def __init__(self, counted: CollectorRegistry, now: Snapshot) -> None:
        self._counted, self._now = counted, now

    def collect(self) -> Iterator[Metric]:
        return chain(self._counted.collect(), families(self._now))


async def render(service: Service, accept: str) -> tuple[bytes, str]:
    """Return everything in the format that is asked for, and its content type. A database that is away is told by its check."""
    now = await _snapshot(service)
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_All(service.instruments.registry, now))
    encode, content_type = choose_encoder(accept)
    return encode(registry), content_type


async def _snapshot(service: Service) -> Snapshot:
    checks = await service.readiness.look()
    instruments = service.instruments
    used = partial(usage.amount_of, accounts=service.accounts, settings=service.settings, now=service.now())
    try:
        stored = await service.database.read(
            gauges.look, service.settings.metrics_jobs, instruments.jobs, used, service.now()
        )
    except StoreAwayError:
        stored = gauges.Stored()
    return Snapshot(
        version=_VERSION,
        jobs_by_state=stored.by_state,
        queue_oldest_s=stored.oldest_s,
        jobs=stored.jobs,
        unlisted=stored.unlisted,
        checks={check.name: check.ok for check in checks},
        ray=service.cluster.reachable,
        reconciler_running=instruments.clock.running,
        reconciler_lag_s=instruments.clock.lag_s(time.monotonic()),
    )


@asynccontextmanager
async def metrics_port(service: Service) -> AsyncIterator[None]:
    """Serve the metrics, and nothing else, on the port of their own inside the block, if there is to be one."""
    settings = service.settings
    if settings.metrics_port is None:
        yield
        return
    with socket.socket(socket.AF_INET6 if ":" in settings.host else socket.AF_INET) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((settings.host, settings.metrics_port))
        except OSError as error:
            where = f"{settings.host}:{settings.metrics_port}"
            raise UserError(f"cannot listen on {where} (SUREFOOT_METRICS_PORT): {error.strerror}") from error
        server = Server(_app(service), settings, lifespan=False)
        serving = asyncio.create_task(server.serve(sockets=[listener]), name="metrics")
        try:
            await server.accepting.wait()
            yield
        finally:
            server.should_exit = True
            await asyncio.gather(serving, return_exceptions=True)


def _app(service: Service) -> FastAPI:
    async def metrics(request: Request) -> Response:
        text, content_type = await render(service, request.headers.get("accept", ""))
        return Response(text, headers={"Content-Type": content_type})

    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None, redirect_slashes=False)
    problems.install(app)
    app.add_route("/metrics", metrics)
    return app
