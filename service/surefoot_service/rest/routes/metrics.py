"""What Prometheus reads."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Header, Response

from surefoot_service.rest.dependencies import Scraper, ServiceDep
from surefoot_service.rest.exposition import render
from surefoot_service.rest.problems import documented
from surefoot_service.rest.route import GuardedRoute

router = APIRouter(tags=["metrics"], dependencies=[Scraper], route_class=GuardedRoute)

_TEXT = {"description": "Families of samples", "content": {"text/plain": {"schema": {"type": "string"}}}}


@router.get("/metrics", responses={200: _TEXT, **documented(401)}, response_class=Response)
async def read_metrics(
    service: ServiceDep,
    accept: Annotated[str, Header(max_length=1000, description="Prometheus' text, or OpenMetrics")] = "",
) -> Response:
    """Tell Prometheus how the service is, and each job that goes on."""
    text, content_type = await render(service, accept)
    return Response(text, headers={"Content-Type": content_type})
