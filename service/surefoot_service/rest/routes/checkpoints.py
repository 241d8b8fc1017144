"""What of a job is durable: its checkpoints, and its final model."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query
from fastapi.responses import StreamingResponse

from surefoot.views import CheckpointList, CheckpointView, JobView, NumberedEvent
from surefoot_service.checkpoints.models import Source, find_model
from surefoot_service.checkpoints.places import belongs
from surefoot_service.parts import Service
from surefoot_service.rest.dependencies import ServiceDep, User
from surefoot_service.rest.numbers import Digits
from surefoot_service.rest.problems import ProblemError, documented
from surefoot_service.rest.route import GuardedRoute
from surefoot_service.rest.routes.jobs import JobId
from surefoot_service.store import events, jobs

router = APIRouter(prefix="/v1/jobs", tags=["checkpoints"], dependencies=[User], route_class=GuardedRoute)

_BYTES = {"schema": {"type": "string", "format": "binary"}}


@router.get("/{job}/checkpoints", responses=documented(401, 404))
async def list_checkpoints(
    job: JobId,
    service: ServiceDep,
    limit: Annotated[int, Query(ge=1, le=1000, description="at most so many checkpoints"), Digits] = 100,
) -> CheckpointList:
    """List the checkpoints that were told to be durable, newest first. Older ones may have been removed since: a job keeps a few."""
    _, place = await _seen(service, job)
    told = await service.database.read(events.checkpoint_events, job, limit)
    # What is told to lie elsewhere is none of this job's: whoever restores from the list is not to open it.
    return CheckpointList(checkpoints=tuple(_view(e) for e in told if belongs(str(e.data.get("url") or ""), place)))


async def _seen(service: Service, job: str) -> tuple[JobView, str]:
    """Return the job, and where its checkpoints lie."""
    return await service.database.read(jobs.see_with_place, job, service.settings.checkpoint_place)


def _view(event: NumberedEvent) -> CheckpointView:
    data = event.data
    return CheckpointView(
        url=str(data["url"]),
        step=_number(data.get("step")),
        at=event.at,
        bytes=_number(data.get("bytes")),
        seconds=_seconds(data.get("seconds")),
        stall_s=_seconds(data.get("stall_s")),
        reason=str(data.get("reason") or ""),
    )


def _number(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and abs(value) <= 2**63 else None


def _seconds(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if abs(value) < 1e300 else None


@router.get(
    "/{job}/model",
    response_class=StreamingResponse,
    responses={
        200: {"description": "A safetensors file", "content": {"application/octet-stream": _BYTES}},
        **documented(401, 404, 409, 502),
    },
)
async def get_model(
    job: JobId,
    service: ServiceDep,
    module: Annotated[
        str | None, Query(max_length=200, description="which tracked module, where there are several")
    ] = None,
) -> StreamingResponse:
    """Download the final model: the state_dict of a tracked module, as safetensors."""
    view, place = await _seen(service, job)
    if view.model is None:
        raise ProblemError(
            404, f"job {job} is {view.state}, and has saved no model yet: it is saved at the end of training"
        )
    source = Source(
        url=view.model,
        place=place,
        storage=place.rpartition("/")[0],
        protocols=service.settings.storage_protocols,
    )
    # The storage's pace is not ours: every wait for it is a thread's, those of the stream too.
    found = await find_model(service.waiting, source, module)
    headers = {
        "Content-Disposition": f'attachment; filename="{job}-{_plain(found.name)}"',
        "Content-Length": str(found.num_bytes),
    }
    return StreamingResponse(found.chunks(service.waiting), media_type="application/octet-stream", headers=headers)


def _plain(name: str) -> str:
    return "".join(c if c.isascii() and (c.isalnum() or c in "._-") else "_" for c in name)
