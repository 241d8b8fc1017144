"""The control plane as an ASGI app."""

from __future__ import annotations

import inspect
import json
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from functools import cache
from importlib.metadata import version

from fastapi import FastAPI, Request, Response
from fastapi.routing import APIRoute, iter_route_contexts

from surefoot_service.data_folder import make_private
from surefoot_service.encryption import open_key_ring
from surefoot_service.keys import open_keys
from surefoot_service.logs.files import LogFolder
from surefoot_service.logs.keeper import LogKeeper
from surefoot_service.packages.archive import PackageStore, limits_of
from surefoot_service.parts import Service
from surefoot_service.reconciler.loop import reconciling
from surefoot_service.reconciler.retention import housekeeping
from surefoot_service.reconciler.traces import tracing
from surefoot_service.rest import problems
from surefoot_service.rest.document import document_of
from surefoot_service.rest.exposition import metrics_port
from surefoot_service.rest.probes import probes_of
from surefoot_service.rest.routes import (
    attempts,
    audit,
    checkpoints,
    files,
    health,
    history,
    jobs,
    logs,
    metrics,
    packages,
    secrets,
    system,
    usage,
)
from surefoot_service.rest.timing import Timing
from surefoot_service.settings import Settings
from surefoot_service.store.database import Database
from surefoot_service.tracing.exporter import open_exporter
from surefoot_service.waiting import Waiting

__all__ = ["create_app", "open_service", "serving"]


def open_service(settings: Settings) -> Service:
    """Open the data folder and the database, bringing both to this version."""
    exporter = open_exporter(os.environ)
    make_private(settings.data, database=settings.database_url is None)
    database = Database(settings.database)
    database.migrate()
    waiting = Waiting()
    service = Service(
        settings=settings,
        database=database,
        packages=PackageStore(settings.data / "packages", limits_of(settings)),
        keys=open_keys(settings.data),
        logs=LogKeeper(database, LogFolder(settings.log_place), waiting, settings.max_log_bytes),
        waiting=waiting,
        key_ring=open_key_ring(settings),
        exporter=exporter,
    )
    service.readiness.probes = probes_of(service)
    return service


@asynccontextmanager
async def serving(app: FastAPI, settings: Settings) -> AsyncIterator[None]:
    """Open the store for the app to answer from; ends everything that was started."""
    service = open_service(settings)
    app.state.service = service
    try:
        async with _cluster(service), housekeeping(service), metrics_port(service), tracing(service):
            yield
    finally:
        service.wakeups.close()
        service.readiness.close()
        if service.exporter is not None:
            service.exporter.close()
        service.database.close()


def create_app(settings: Settings | None = None) -> FastAPI:
    """Return the app; its lifespan opens the store and ends everything it started."""
    settings = settings or Settings()
    app = FastAPI(
        title="Surefoot",
        version=version("surefoot"),
        lifespan=lambda app: serving(app, settings),
        # no pages for people, and its document is made once, not for every stranger who asks
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        # a redirect would be an answer that is documented nowhere
        redirect_slashes=False,
    )
    problems.install(app)
    app.add_middleware(Timing)
    for part in (
        *(packages, jobs, checkpoints, files, history, logs, attempts, secrets),
        *(audit, health, metrics, usage, system),
    ):
        app.include_router(part.router)
    app.include_router(secrets.attempts)
    _make_ready(app)
    app.openapi = cache(lambda: document_of(app))  # type: ignore[method-assign]
    app.add_route("/openapi.json", _document(app), include_in_schema=False)
    return app


def _make_ready(app: FastAPI) -> None:
    """Do at the start what FastAPI does at the first requests: it would hold the loop for tenths of a second."""
    for route in iter_route_contexts(app.routes):
        # it tells the lines of an endpoint in its errors, and looks them up among all modules
        if isinstance(route.original_route, APIRoute) and route.endpoint is not None:
            inspect.getsourcelines(route.endpoint)


def _document(app: FastAPI) -> Callable[[Request], Awaitable[Response]]:
    @cache
    def text() -> bytes:
        return json.dumps(app.openapi()).encode()

    async def document(_request: Request) -> Response:
        return Response(text(), media_type="application/json")

    return document


def _cluster(service: Service) -> AbstractAsyncContextManager[None]:
    """The loop over the cluster that the settings name; `surefoot up` runs it over its own head."""
    settings = service.settings
    if settings.ray_address is None:
        return nullcontext()
    token = settings.ray_auth_token
    return reconciling(service, settings.ray_address, token.get_secret_value() if token else None, settings.ray_python)
