"""Whether the service lives, and whether it can do its work. Neither takes a token: probes have none."""

from __future__ import annotations

from importlib.metadata import version

from fastapi import APIRouter, Response

from surefoot.views import Health, NotReady, Ready
from surefoot_service.rest.dependencies import ServiceDep
from surefoot_service.rest.problems import PROBLEM_TYPE, documented
from surefoot_service.rest.route import GuardedRoute

router = APIRouter(prefix="/v1", tags=["health"], route_class=GuardedRoute)

_VERSION = version("surefoot")
_NOT_READY = {
    "description": "Something that it needs is away; `checks` says what",
    "content": {PROBLEM_TYPE: {"schema": {"$ref": "#/components/schemas/NotReady"}}},
}


@router.get("/health", responses=documented())
async def health(service: ServiceDep) -> Health:
    """Tell that the service lives. Touches neither database nor cluster: one that is away is no reason to restart it."""
    return Health(version=_VERSION, ray=service.cluster.reachable)


@router.get("/ready", responses={**documented(), 200: {"model": Ready}, 503: _NOT_READY}, response_class=Response)
async def ready(service: ServiceDep) -> Response:
    """Tell whether the service can do its work: its database, migrations, packages, storage and cluster, each by itself."""
    checks = await service.readiness.look()
    if all(check.ok for check in checks):
        return Response(Ready(checks=checks).model_dump_json(), media_type="application/json")
    detail = "; ".join(f"{check.name}: {check.detail}" for check in checks if not check.ok)
    problem = NotReady(title="Service Unavailable", status=503, detail=detail, checks=checks)
    return Response(problem.model_dump_json(), 503, {"Retry-After": "2"}, media_type=PROBLEM_TYPE)
