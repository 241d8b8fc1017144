"""What a job told: events, ledger, and both as a live stream."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Annotated

from fastapi import APIRouter, Header, Query, Response
from fastapi.responses import StreamingResponse
from sqlalchemy.orm import Session

from surefoot.views import EventPage, LedgerPage
from surefoot_service.parts import Service
from surefoot_service.rest import stream
from surefoot_service.rest.dependencies import ServiceDep, User
from surefoot_service.rest.numbers import Digits
from surefoot_service.rest.problems import documented
from surefoot_service.rest.route import GuardedRoute
from surefoot_service.rest.routes.jobs import JobId
from surefoot_service.store import events as store
from surefoot_service.store import jobs

router = APIRouter(prefix="/v1/jobs", tags=["history"], dependencies=[User], route_class=GuardedRoute)

# a ledger row a line
NDJSON = "application/x-ndjson"
# of the ledger, in one transaction and in memory
ROWS_AT_A_TIME = 2_000
_VARY = {"Vary": "Accept"}

# as far as JSON's numbers are whole everywhere
MOST = 2**53


@router.get("/{job}/events", responses=documented(401, 404))
async def list_events(
    job: JobId,
    service: ServiceDep,
    after: Annotated[int, Query(ge=0, le=MOST, description="only events with a higher seq"), Digits] = 0,
    limit: Annotated[int, Query(ge=1, le=10_000, description="at most so many events"), Digits] = 1000,
) -> EventPage:
    """List a job's events in the order stored, those with seq above `after`."""
    await service.database.read(jobs.load, job)
    return EventPage(events=await service.database.read(store.events_after, job, after, limit))


@router.get(
    "/{job}/ledger",
    responses={200: {"model": LedgerPage, "content": {NDJSON: {"schema": {"type": "string"}}}}, **documented(401, 404)},
    response_class=Response,
)
async def read_ledger(
    job: JobId,
    service: ServiceDep,
    from_step: Annotated[int, Query(ge=0, le=MOST, description="only rows from this step on"), Digits] = 0,
    limit: Annotated[int, Query(ge=1, le=100_000, description="at most so many rows"), Digits] = 10_000,
    accept: Annotated[
        str | None, Header(max_length=1000, description=f"{NDJSON}: a row a line; anything else: one document")
    ] = None,
) -> StreamingResponse:
    """Read a job's ledger by step: as one document, or, for `Accept: application/x-ndjson`, a row a line."""
    first = await service.database.read(_some_rows, job, from_step, min(limit, ROWS_AT_A_TIME))
    pages = _row_pages(service, job, first, limit)
    if NDJSON in (accept or ""):
        return StreamingResponse(_by_lines(pages), media_type=NDJSON, headers=_VARY)
    return StreamingResponse(_as_document(pages), media_type="application/json", headers=_VARY)


def _some_rows(session: Session, job: str, from_step: int, limit: int) -> Sequence[tuple[int, str]]:
    # each time: of a job that is deleted meanwhile no part is to be taken for the whole, so the answer is cut
    jobs.load(session, job)
    return store.rows_from(session, job, from_step, limit)


async def _row_pages(
    service: Service, job: str, page: Sequence[tuple[int, str]], limit: int
) -> AsyncIterator[list[str]]:
    """Yield the rows as JSON, some at a time, each read when those before are sent: memory does not grow with the ledger."""
    while page:
        # The rows are kept as JSON, and compared between jobs byte for byte: they go out as they came in.
        yield [row for _, row in page]
        limit -= len(page)
        if limit <= 0 or len(page) < ROWS_AT_A_TIME:
            return
        page = await service.database.read(_some_rows, job, page[-1][0] + 1, min(limit, ROWS_AT_A_TIME))


async def _by_lines(pages: AsyncIterator[list[str]]) -> AsyncIterator[str]:
    async for rows in pages:
        # within a row's JSON a line break is but white space
        yield "".join(f"{row.replace(chr(10), ' ').replace(chr(13), ' ')}\n" for row in rows)


async def _as_document(pages: AsyncIterator[list[str]]) -> AsyncIterator[str]:
    begin = '{"rows":['
    async for rows in pages:
        yield begin + ",".join(rows)
        begin = ","
    yield "]}" if begin == "," else begin + "]}"


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
    last_event_id: Annotated[
        str | None, Header(pattern=r"^\d{1,18}-\d{1,18}$", description="the id of the last message that came")
    ] = None,
) -> StreamingResponse:
    """Follow a job from its beginning, or from Last-Event-ID on, to its end."""
    await service.database.read(jobs.load, job)
    messages = stream.follow(service, job, stream.Cursor.read(last_event_id))
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return StreamingResponse(messages, media_type="text/event-stream", headers=headers)
