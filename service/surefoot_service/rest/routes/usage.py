"""What jobs have used and cost, and what they may."""

from __future__ import annotations

from fastapi import APIRouter

from surefoot.budget import Budget
from surefoot.usage import JobUsage
from surefoot.views import JobView
from surefoot_service.rest.dependencies import ServiceDep, User
from surefoot_service.rest.problems import documented
from surefoot_service.rest.route import GuardedRoute
from surefoot_service.rest.routes.jobs import JobId
from surefoot_service.store import commands
from surefoot_service.store import usage as store
from surefoot_service.wakeups import RECONCILER, news_of

router = APIRouter(prefix="/v1/jobs", tags=["usage"], dependencies=[User], route_class=GuardedRoute)


@router.get("/{job}/usage", responses=documented(401, 404))
async def get_usage(job: JobId, service: ServiceDep) -> JobUsage:
    """Tell what a job has used and cost so far, and what the rest takes with each number of trainers."""
    return await service.database.read(store.usage_of, job, service.accounts, service.settings, service.now())


@router.post("/{job}/budget", responses=documented(401, 404, 408, 409, 415))
async def set_budget(job: JobId, body: Budget, service: ServiceDep) -> JobView:
    """Give a job another budget, in place of the one it has. A job that was paused as it was spent is to be resumed then."""
    view = await service.database.write(commands.set_budget, job, body, now=service.now())
    service.wakeups.wake(RECONCILER, news_of(job))
    return view
