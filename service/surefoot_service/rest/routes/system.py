"""What a job's trainers use of their machines."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query

from surefoot.system import SystemMetrics
from surefoot_service.rest.dependencies import ServiceDep, User
from surefoot_service.rest.problems import documented
from surefoot_service.rest.route import GuardedRoute
from surefoot_service.rest.routes.jobs import JobId
from surefoot_service.store import system as store

router = APIRouter(prefix="/v1/jobs", tags=["usage"], dependencies=[User], route_class=GuardedRoute)


@router.get("/{job}/system", responses=documented(401, 404))
async def get_system_metrics(
    job: JobId,
    service: ServiceDep,
    history: Annotated[
        bool, Query(description="all samples that are kept, oldest first, and not each trainer's newest alone")
    ] = False,
) -> SystemMetrics:
    """Tell what a job's trainers use of CPUs, memory, GPUs and networks, and how their time is spent."""
    return await service.database.read(store.look, job, history=history, now=service.now())
