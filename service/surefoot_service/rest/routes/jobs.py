"""Jobs: submitted, seen, resized, cancelled."""

from __future__ import annotations

import zlib
from typing import Annotated, Any
from zipfile import BadZipFile

from fastapi import APIRouter, Header, Path, Query, Response
from pydantic import ValidationError, ValidatorFunctionWrapHandler, WrapValidator

from surefoot.errors import EntrypointError
from surefoot.names import JOB_PATTERN, is_job
from surefoot.spec import JobSpec, JobState
from surefoot.views import CloneRequest, FaultRequest, JobList, JobView, ResizeRequest
from surefoot_service.checkpoints.places import refusal
from surefoot_service.errors import ConflictError, InvalidError
from surefoot_service.packages.entrypoints import check_entrypoint
from surefoot_service.parts import Service
from surefoot_service.reconciler import retention
from surefoot_service.rest.body import BodyKind, takes
from surefoot_service.rest.dependencies import ServiceDep, Trace, User
from surefoot_service.rest.numbers import Digits
from surefoot_service.rest.problems import ProblemError, documented
from surefoot_service.rest.route import GuardedRoute
from surefoot_service.store import commands, packages, shown, usage
from surefoot_service.store import jobs as store
from surefoot_service.waiting import Kind
from surefoot_service.wakeups import RECONCILER, commands_of, news_of

router = APIRouter(prefix="/v1/jobs", tags=["jobs"], dependencies=[User], route_class=GuardedRoute)

JobId = Annotated[str, Path(pattern=JOB_PATTERN, description="the job's id")]
IdempotencyKey = Annotated[
    str | None,
    Header(
        min_length=1,
        max_length=200,
        pattern=r"^[\x21-\x7e]+$",
        description="any text: the same request again with the same one gives the same job",
    ),
]


def _which(value: Any, _validate: ValidatorFunctionWrapHandler) -> JobSpec | CloneRequest:
    """Told by `from`: the errors are then of the one that was meant."""
    kind = CloneRequest if isinstance(value, dict) and "from" in value else JobSpec
    return kind.model_validate(value)


Submitted = Annotated[JobSpec | CloneRequest, WrapValidator(_which)]


@router.post(
    "",
    status_code=201,
    responses={
        200: {"description": "Submitted before with this key", "model": JobView},
        **documented(401, 404, 408, 409, 415),
    },
)
@takes(BodyKind.SPEC)
async def submit_job(
    asked: Submitted,
    response: Response,
    service: ServiceDep,
    trace: Trace,
    idempotency_key: IdempotencyKey = None,
) -> JobView:
    """Queue a job of this spec, or another job again with changes. With an Idempotency-Key, the same request gives the same job."""
    spec = asked if isinstance(asked, JobSpec) else await _cloned(service, asked, idempotency_key)
    _check_places(service, spec)
    await _check_code(service, spec)
    view, new = await service.database.write(
        store.create,
        spec,
        idempotency_key=idempotency_key,
        now=service.now(),
        checkpoints=service.settings.checkpoint_place,
        asked=trace,
    )
    if new:
        service.wakeups.wake(RECONCILER)
    else:
        response.status_code = 200
    return view


async def _cloned(service: Service, asked: CloneRequest, idempotency_key: str | None) -> JobSpec:
    """The spec of another job, with its changes; where that is deleted since, of the job that the same request made before."""
    view = await service.database.read(store.see_source, asked.from_, idempotency_key)
    if view.unreadable:
        raise ConflictError(f"job {view.id} cannot be submitted again: {view.unreadable}")
    fields = view.spec.model_dump(mode="json")
    for name, value in asked.changes.items():
        known = fields.get(name)
        fields[name] = known | value if isinstance(known, dict) and isinstance(value, dict) else value
    try:
        return JobSpec.model_validate(fields)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(["body", "changes", *map(str, first["loc"])])
        raise InvalidError(where, first["msg"].removeprefix("Value error, ")) from None


def _check_places(service: Service, spec: JobSpec) -> None:
    """Refuse URLs that lead somewhere else than they say. A `restore` that is a job's id is the store's to look up."""
    allowed = service.settings.storage_protocols
    if spec.checkpoint.url is not None and (why := refusal(spec.checkpoint.url, allowed)):
        raise InvalidError("body.checkpoint.url", why)
    if spec.restore is not None and not is_job(spec.restore) and (why := refusal(spec.restore, allowed)):
        raise InvalidError("body.restore", why)
    for name, source in spec.data.items():
        if why := refusal(source.url, allowed):
            raise InvalidError(f"body.data.{name}.url", why)


async def _check_code(service: Service, spec: JobSpec) -> None:
    size = await service.database.read(packages.size_of, spec.package)
    try:
        if size is None or not await service.waiting.run(Kind.PACKAGES, service.packages.has, spec.package, size):
            raise _no_package(spec)
        path = service.packages.path(spec.package)
        await service.waiting.run(
            Kind.SOURCES, check_entrypoint, path, spec.entrypoint, may_be_installed=bool(spec.pip)
        )
    except EntrypointError as error:
        raise InvalidError("body.entrypoint", str(error)) from error
    except (FileNotFoundError, BadZipFile, zlib.error) as error:
        raise _no_package(spec) from error
    except OSError as error:
        raise ProblemError(503, f"package {spec.package} cannot be read from the service's disk: {error}") from error


def _no_package(spec: JobSpec) -> InvalidError:
    """The field tells the SDK to upload it, again perhaps: a file may be gone from the service's disk."""
    return InvalidError("body.package", f"package {spec.package} is not here; upload it first (POST /v1/packages)")


@router.get("", responses={200: {"model": JobList}, **documented(401, 404)}, response_class=Response)
async def list_jobs(
    service: ServiceDep,
    state: Annotated[JobState | None, Query(description="only jobs in this state")] = None,
    limit: Annotated[int, Query(ge=1, le=1000, description="at most so many jobs"), Digits] = 100,
    before: Annotated[str | None, Query(pattern=JOB_PATTERN, description="a job's id: only older ones")] = None,
    beginning: Annotated[
        str | None, Query(pattern=JOB_PATTERN, description="only jobs whose ids begin with it")
    ] = None,
) -> Response:
    """List jobs, newest first."""
    found = await service.database.read(shown.jobs_json, state=state, limit=limit, before=before, beginning=beginning)
    return Response(found, media_type="application/json")


@router.get("/{job}", responses={200: {"model": JobView}, **documented(401, 404)}, response_class=Response)
async def get_job(job: JobId, service: ServiceDep) -> Response:
    """Tell how a job is."""
    return Response(await service.database.read(shown.job_json, job), media_type="application/json")


@router.delete("/{job}", status_code=204, responses=documented(401, 404, 409))
async def delete_job(
    job: JobId,
    service: ServiceDep,
    checkpoints: Annotated[
        bool, Query(description="remove its checkpoints and its final model too; they go in the background")
    ] = False,
) -> None:
    """Delete a job that has ended, with its history. Deleting it again changes nothing; `GET /v1/audit` tells of it."""
    await retention.delete_job(service, job, by="the user", checkpoints=checkpoints)


@router.post("/{job}/resize", responses=documented(401, 404, 408, 409, 415))
async def resize_job(job: JobId, body: ResizeRequest, service: ServiceDep) -> JobView:
    """Want another number of trainers, from now on. The result stays the same, bit for bit."""
    view = await service.database.write(commands.resize, job, body.trainers, now=service.now())
    _ring(service, job)
    return view


@router.post("/{job}/cancel", responses=documented(401, 404))
async def cancel_job(job: JobId, service: ServiceDep) -> JobView:
    """Ask for a job's end. Asking again changes nothing; the state is cancelled once nothing of the job is left."""
    view = await service.database.write(commands.cancel, job, now=service.now())
    _ring(service, job)
    return view


@router.post("/{job}/pause", responses=documented(401, 404, 409))
async def pause_job(job: JobId, service: ServiceDep) -> JobView:
    """Have a job stop at a step boundary; the state is paused once it is saved. A queued job is paused at once."""
    view = await service.database.write(commands.pause, job, now=service.now())
    _ring(service, job)
    return view


@router.post("/{job}/resume", responses=documented(401, 404, 409))
async def resume_job(job: JobId, service: ServiceDep) -> JobView:
    """Queue a paused job again; it goes on from its newest checkpoint, to the same result. 409 where its budget is spent."""
    spent = await service.database.read(usage.spent_of, job, service.accounts, service.settings, service.now())
    if spent:
        raise ConflictError(f"job {job} cannot be resumed: {spent}; give it a higher budget first")
    view = await service.database.write(commands.resume, job, now=service.now())
    _ring(service, job)
    return view


@router.post("/{job}/checkpoint", responses=documented(401, 404, 409))
async def checkpoint_job(job: JobId, service: ServiceDep) -> JobView:
    """Have a job make a checkpoint at the next step boundary; an event tells when it is durable."""
    view = await service.database.write(commands.checkpoint, job, now=service.now())
    _ring(service, job)
    return view


@router.post("/{job}/faults", status_code=202, responses=documented(401, 404, 408, 409, 415))
async def inject_fault(job: JobId, body: FaultRequest, service: ServiceDep) -> JobView:
    """Do a job a fault, for real; an event tells when it is done, or a warning why it cannot be. `surefoot chaos` uses it."""
    view = await service.database.write(commands.inject, job, body.kind, body.leave, now=service.now())
    _ring(service, job)
    return view


def _ring(service: Service, job: str) -> None:
    service.wakeups.wake(RECONCILER, commands_of(job), news_of(job))
