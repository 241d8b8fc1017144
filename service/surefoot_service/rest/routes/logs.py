"""What a job's processes print: told by its attempts, read in pieces or followed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Depends, Header, Path, Query, Request
from fastapi.responses import StreamingResponse
from fastapi.sse import format_sse_event

from surefoot.logs import LOGS_TYPE, LogPage, LogsAck
from surefoot.names import ATTEMPT_PATTERN
from surefoot_service.errors import InvalidError, NotFoundError
from surefoot_service.logs.chunks import Wanted
from surefoot_service.logs.keeper import MOST_LINES
from surefoot_service.parts import Service
from surefoot_service.rest.body import BodyKind, takes
from surefoot_service.rest.dependencies import AttemptToken, ServiceDep, User
from surefoot_service.rest.numbers import Digits
from surefoot_service.rest.problems import ProblemError, documented
from surefoot_service.rest.route import GuardedRoute
from surefoot_service.rest.routes.history import MOST
from surefoot_service.rest.routes.jobs import JobId
from surefoot_service.store import jobs
from surefoot_service.store import logs as store
from surefoot_service.store.database import StoreAwayError
from surefoot_service.waiting import BusyError, HungError
from surefoot_service.wakeups import logs_of, news_of

router = APIRouter(prefix="/v1", tags=["logs"], route_class=GuardedRoute)

# how often whoever waits looks again although nobody rang: another replica may have written
_LOOK_AGAIN_S = 5.0
# a message of a stream has no more lines
_STREAM_LINES = 1000

_BODY = {
    "requestBody": {
        "required": True,
        "content": {LOGS_TYPE: {"schema": {"type": "string", "contentMediaType": LOGS_TYPE}}},
    }
}


@router.post(
    "/attempts/{attempt}/logs", openapi_extra=_BODY, responses=documented(401, 404, 408, 410, 415), tags=["attempts"]
)
@takes(BodyKind.LOGS)
async def take_logs(
    attempt: Annotated[str, Path(pattern=ATTEMPT_PATTERN, description="the attempt's name")],
    request: Request,
    token: AttemptToken,
    service: ServiceDep,
) -> LogsAck:
    """Take in printed lines: frames laid end to end (see `FrameHead`). The same ones again change nothing."""
    if request.headers.get("content-type", "").split(";")[0].strip() != LOGS_TYPE:
        raise ProblemError(415, f"printed lines are sent as {LOGS_TYPE}")
    printer = await service.database.read(store.authorize, attempt, token, service.now())
    stored = await service.logs.take(printer, await request.body())
    service.wakeups.wake(logs_of(printer.job))
    return LogsAck(stored=stored)


async def _wanted(
    trainer: Annotated[
        str | None,
        Query(pattern=r"^(t\d{1,9}|supervisor|launcher)$", description="only lines of this process: t0, supervisor"),
    ] = None,
    since: Annotated[datetime | None, Query(description="only lines from this time on")] = None,
    contains: Annotated[
        str | None, Query(min_length=1, max_length=1000, description="only lines with this text")
    ] = None,
) -> Wanted:
    if since is not None and since.tzinfo is None:
        raise InvalidError("query.since", "a time needs its zone, such as 2026-01-31T12:00:00Z")
    return Wanted(trainer=trainer, since=since, contains=contains)


WantedDep = Annotated[Wanted, Depends(_wanted)]


@router.get("/jobs/{job}/logs", responses=documented(401, 404), dependencies=[User])
async def read_logs(
    job: JobId,
    service: ServiceDep,
    wanted: WantedDep,
    start: Annotated[int, Query(ge=0, le=MOST, description="only lines with this number, or a higher one"), Digits] = 0,
    limit: Annotated[int, Query(ge=1, le=MOST_LINES, description="at most so many lines"), Digits] = 1000,
    tail: Annotated[
        int | None,
        Query(ge=1, le=MOST_LINES, description="the last so many lines, in place of `start` and `limit`"),
        Digits,
    ] = None,
    wait_s: Annotated[
        float, Query(ge=0, le=60, allow_inf_nan=False, description="seconds to wait for the first line")
    ] = 0,
) -> LogPage:
    """Read what a job's processes printed, in the order in which it came; of each process in the order in which it printed."""
    await service.database.read(jobs.load, job)
    if tail is not None:
        return await service.logs.tail(job, wanted, tail, service.now())
    return await _page(service, job, wanted, start, limit, wait_s)


async def _page(service: Service, job: str, wanted: Wanted, start: int, limit: int, wait_s: float) -> LogPage:
    """A page with a line in it, or without one once there is more to look through, nothing more will come, or the time is over."""
    clock = asyncio.get_running_loop().time
    deadline = clock() + wait_s
    with service.wakeups.listen(logs_of(job)) as wakeup, service.wakeups.listen(news_of(job)) as news:
        while True:
            page = await service.logs.page(job, wanted, start, limit, service.now())
            left = deadline - clock()
            if page.lines or page.more or page.done or left <= 0 or service.wakeups.closed:
                return page
            start = page.next
            waits = [asyncio.create_task(listener.wait(min(left, _LOOK_AGAIN_S))) for listener in (wakeup, news)]
            try:
                await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for wait in waits:
                    wait.cancel()


@router.get(
    "/jobs/{job}/logs/stream",
    response_class=StreamingResponse,
    dependencies=[User],
    responses={
        200: {
            "description": "Server-Sent Events: `lines`, each with a LogPage; its id is where the next begins",
            "content": {"text/event-stream": {"schema": {"type": "string"}}},
        },
        **documented(401, 404),
    },
)
async def stream_logs(
    job: JobId,
    service: ServiceDep,
    wanted: WantedDep,
    start: Annotated[int, Query(ge=0, le=MOST, description="only lines with this number, or a higher one"), Digits] = 0,
    last_event_id: Annotated[
        str | None, Header(pattern=r"^\d{1,16}$", description="the id of the last message that came")
    ] = None,
) -> StreamingResponse:
    """Follow what a job's processes print, from the line `start` or from Last-Event-ID on, until nothing more will come."""
    await service.database.read(jobs.load, job)
    messages = _follow(service, job, wanted, start if last_event_id is None else int(last_event_id))
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return StreamingResponse(messages, media_type="text/event-stream", headers=headers)


async def _follow(service: Service, job: str, wanted: Wanted, start: int) -> AsyncIterator[bytes]:
    while not service.wakeups.closed:
        try:
            page = await _page(service, job, wanted, start, _STREAM_LINES, 15.0)
        except (StoreAwayError, BusyError, HungError, NotFoundError):
            return  # whoever follows comes back with the id of the last message
        if page.lines or page.done:
            yield format_sse_event(event="lines", data_str=page.model_dump_json(), id=str(page.next))
        elif page.next == start:
            yield format_sse_event(comment="quiet")
        start = page.next
        if page.done:
            return
