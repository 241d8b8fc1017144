"""What a job told: events, ledger, and both as a live stream."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Header, Query, Response
from fastapi.responses import StreamingResponse

from surefoot.views import EventPage, LedgerPage
from surefoot_service import stream
from surefoot_service.context import ServiceDep, User
from surefoot_service.problems import documented
from surefoot_service.rest.route import GuardedRoute
from surefoot_service.routes.jobs import JobId
from surefoot_service.store import events as store
from surefoot_service.store import jobs

router = APIRouter(prefix="/v1/jobs", tags=["history"], dependencies=[User], route_class=GuardedRoute)

# as far as JSON's numbers are whole everywhere
Number = Annotated[int, Query(ge=0, le=2**53)]


@router.get("/{job}/events", responses=documented(401, 404))
async def list_events(
    job: JobId, service: ServiceDep, after: Number = 0, limit: Annotated[int, Query(ge=1, le=10_000)] = 1000
) -> EventPage:
    """List a job's events in the order stored, those with seq above `after`."""
    await service.database.read(jobs.load, job)
    return EventPage(events=await service.database.read(store.events_after, job, after, limit))


@router.get("/{job}/ledger", responses={200: {"model": LedgerPage}, **documented(401, 404)}, response_class=Response)
async def read_ledger(
    job: JobId, service: ServiceDep, from_step: Number = 0, limit: Annotated[int, Query(ge=1, le=100_000)] = 10_000
) -> Response:
    """Read a job's ledger by step."""
    await service.database.read(jobs.load, job)
    rows = await service.database.read(store.rows_from, job, from_step, limit)
    # The rows are kept as JSON, and compared between jobs byte for byte: they go out as they came in.
    body = ",".join(row for _, row in rows)
    return Response(f'{{"rows":[{body}]}}', media_type="application/json")


@router.get(
    "/{job}/stream",
    response_class=StreamingResponse,
    responses={
        200: {
            "description": "Server-Sent Events: event, row, job",
            "content": {"text/event-stream": {"schema": {"type": "string"}}},
        },
        **documented(401, 404),
    },
)
async def stream_job(
    job: JobId,
    service: ServiceDep,
    last_event_id: Annotated[str | None, Header(pattern=r"^\d{1,18}-\d{1,18}$")] = None,
) -> StreamingResponse:
    """Follow a job from its beginning, or from Last-Event-ID on, to its end."""
    await service.database.read(jobs.load, job)
    messages = stream.follow(service, job, stream.Cursor.read(last_event_id))
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return StreamingResponse(messages, media_type="text/event-stream", headers=headers)
