"""The control plane as an ASGI app."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from importlib.metadata import version
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from surefoot.views import Health, Problem
from surefoot_service import problems
from surefoot_service.body_limit import BodyLimit
from surefoot_service.context import Service, ServiceDep
from surefoot_service.data_folder import make_private
from surefoot_service.keys import open_keys
from surefoot_service.packages import PackageStore, limits_of
from surefoot_service.reconciler import reconciling
from surefoot_service.routes import attempts, checkpoints, history, jobs, packages
from surefoot_service.settings import Settings
from surefoot_service.store.database import Database

__all__ = ["create_app", "open_service"]


def open_service(settings: Settings) -> Service:
    """Open the data folder and the database, bringing both to this version."""
    make_private(settings.data, database=settings.database_url is None)
    database = Database(settings.database)
    database.migrate()
    return Service(
        settings=settings,
        database=database,
        packages=PackageStore(settings.data / "packages", limits_of(settings)),
        keys=open_keys(settings.data),
    )


def create_app(settings: Settings | None = None) -> FastAPI:
    """Return the app; its lifespan opens the store and ends everything it started."""
    settings = settings or Settings()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        service = open_service(settings)
        app.state.service = service
        try:
            async with _cluster(service):
                yield
        finally:
            service.bells.close()
            service.database.close()

    app = FastAPI(title="Surefoot", version=version("surefoot"), lifespan=lifespan, docs_url=None, redoc_url=None)
    problems.install(app)
    app.add_middleware(BodyLimit, max_bytes=settings.max_body_bytes, own_count=frozenset({"/v1/packages"}))
    for part in (packages, jobs, checkpoints, history, attempts):
        app.include_router(part.router)

    @app.get("/v1/health", tags=["health"], responses=problems.documented())
    async def health(service: ServiceDep) -> Health:
        """Tell that the service answers."""
        return Health(version=app.version, ray=service.cluster.reachable)

    app.openapi = lambda: _openapi(app)  # type: ignore[method-assign]
    return app


def _cluster(service: Service) -> AbstractAsyncContextManager[None]:
    """The loop over the cluster that the settings name; `surefoot up` runs it over its own head."""
    settings = service.settings
    if settings.ray_address is None:
        return nullcontext()
    token = settings.ray_auth_token
    return reconciling(service, settings.ray_address, token.get_secret_value() if token else None, settings.ray_python)


def _openapi(app: FastAPI) -> dict[str, Any]:
    """FastAPI's document, with our problems in place of its own validation error."""
    if app.openapi_schema is None:
        document = get_openapi(title=app.title, version=app.version, routes=app.routes)
        schemas = document["components"]["schemas"]
        for name in ("HTTPValidationError", "ValidationError"):
            schemas.pop(name, None)
        problem = Problem.model_json_schema(ref_template="#/components/schemas/{model}", mode="serialization")
        schemas.update(problem.pop("$defs"))
        schemas["Problem"] = problem
        app.openapi_schema = document
    return app.openapi_schema
