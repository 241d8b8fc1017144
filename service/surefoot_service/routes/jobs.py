"""Jobs: submitted, seen, resized, cancelled."""

from __future__ import annotations

import asyncio
from typing import Annotated

from fastapi import APIRouter, Header, Path, Query, Response

from surefoot.errors import EntrypointError
from surefoot.spec import JobSpec, JobState
from surefoot.views import JobList, JobView, ResizeRequest
from surefoot_service.bells import RECONCILER, commands_of, news_of
from surefoot_service.context import Service, ServiceDep, User
from surefoot_service.entrypoints import check_entrypoint
from surefoot_service.problems import documented, unprocessable
from surefoot_service.store import jobs as store
from surefoot_service.store import packages

router = APIRouter(prefix="/v1/jobs", tags=["jobs"], dependencies=[User])

JobId = Annotated[str, Path(pattern=r"^[a-z0-9-]{1,40}$")]
IdempotencyKey = Annotated[str | None, Header(min_length=1, max_length=200, pattern=r"^[\x21-\x7e]+$")]


@router.post(
    "",
    status_code=201,
    responses={200: {"description": "Submitted before with this key", "model": JobView}, **documented(401, 409, 413)},
)
async def submit_job(
    spec: JobSpec, response: Response, service: ServiceDep, idempotency_key: IdempotencyKey = None
) -> JobView:
    """Queue a job. With an Idempotency-Key, the same request again gives the same job."""
    await _check_code(service, spec)
    view, new = await service.database.write(store.create, spec, idempotency_key=idempotency_key, now=service.now())
    if new:
        service.bells.ring(RECONCILER)
    else:
        response.status_code = 200
    return view


async def _check_code(service: Service, spec: JobSpec) -> None:
    if await service.database.read(packages.size_of, spec.package) is None:
        raise unprocessable("body.package", f"package {spec.package} is not here; upload it first (POST /v1/packages)")
    path = service.packages.path(spec.package)
    try:
        await asyncio.to_thread(check_entrypoint, path, spec.entrypoint, may_be_installed=bool(spec.pip))
    except EntrypointError as error:
        raise unprocessable("body.entrypoint", str(error)) from error


@router.get("", responses=documented(401, 404))
async def list_jobs(
    service: ServiceDep,
    state: JobState | None = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    before: Annotated[
        str | None, Query(pattern=r"^[a-z0-9-]{1,40}$", description="a job's id: only older ones")
    ] = None,
) -> JobList:
    """List jobs, newest first."""
    return JobList(jobs=await service.database.read(store.listing, state=state, limit=limit, before=before))


@router.get("/{job}", responses=documented(401, 404))
async def get_job(job: JobId, service: ServiceDep) -> JobView:
    """Tell how a job is."""
    return await service.database.read(store.see, job)


@router.post("/{job}/resize", responses=documented(401, 404, 409, 413))
async def resize_job(job: JobId, body: ResizeRequest, service: ServiceDep) -> JobView:
    """Want another number of trainers, from now on. The result stays the same, bit for bit."""
    view = await service.database.write(store.resize, job, body.trainers, now=service.now())
    service.bells.ring(RECONCILER, commands_of(job), news_of(job))
    return view


@router.post("/{job}/cancel", responses=documented(401, 404))
async def cancel_job(job: JobId, service: ServiceDep) -> JobView:
    """Ask for a job's end. Asking again changes nothing; the state is cancelled once nothing of the job is left."""
    view = await service.database.write(store.cancel, job, now=service.now())
    service.bells.ring(RECONCILER, commands_of(job), news_of(job))
    return view
