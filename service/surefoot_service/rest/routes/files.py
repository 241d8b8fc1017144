"""The files that a job's training wrote to `run.output_dir`: listed, and fetched one by one."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Annotated

from fastapi import APIRouter, Header, Query
from fastapi.responses import StreamingResponse

from surefoot.output import FileList, FileView, KeptFile
from surefoot_service.checkpoints.files import JobFiles, Span, find_files
from surefoot_service.errors import NotFoundError
from surefoot_service.parts import Service
from surefoot_service.rest.dependencies import ServiceDep, User
from surefoot_service.rest.numbers import Digits
from surefoot_service.rest.problems import ProblemError, documented
from surefoot_service.rest.route import GuardedRoute
from surefoot_service.rest.routes.jobs import JobId
from surefoot_service.store import jobs

router = APIRouter(prefix="/v1/jobs", tags=["files"], dependencies=[User], route_class=GuardedRoute)

_RANGE = re.compile(r"^bytes=(?:(\d{1,15})-(\d{0,15})|-(\d{1,15}))$")
_BYTES = {"schema": {"type": "string", "format": "binary"}}

FilePath = Annotated[str, Query(max_length=1024, description="the file's path, as it is listed")]
Version = Annotated[
    str | None,
    Query(max_length=200, description="which synchronisation, as a list names it; without it the newest"),
]


@router.get("/{job}/files", responses=documented(401, 404, 409, 502))
async def list_files(
    job: JobId,
    service: ServiceDep,
    prefix: Annotated[str, Query(max_length=1024, description="only files whose paths begin with this")] = "",
    after: Annotated[str, Query(max_length=1024, description="only files whose paths come after this one")] = "",
    limit: Annotated[int, Query(ge=1, le=1000, description="at most so many files"), Digits] = 1000,
    version: Version = None,
) -> FileList:
    """List the files that training wrote to `run.output_dir`, by path, as they were synchronised last."""
    found = await _found(service, job, version)
    if found is None:
        return FileList()
    manifest = found.manifest
    asked = [file for file in manifest.files if file.path.startswith(prefix) and file.path > after]
    return FileList(
        files=tuple(map(_view, asked[:limit])),
        more=len(asked) > limit,
        version=found.version,
        step=manifest.step,
        ended=manifest.ended,
        synchronised=datetime.fromtimestamp(manifest.at, UTC),
        total_files=len(manifest.files),
        total_bytes=sum(file.bytes for file in manifest.files),
        left_out=manifest.left_out,
    )


async def _found(service: Service, job: str, version: str | None) -> JobFiles | None:
    settings = service.settings
    _, place = await service.database.read(jobs.see_with_place, job, settings.checkpoint_place)
    return await find_files(service.waiting, place, tuple(settings.storage_protocols), version)


def _view(file: KeptFile) -> FileView:
    # of a time that no calendar has, the last one that it has
    seconds = min(file.modified_ns / 1e9, 253_402_300_799)
    return FileView(path=file.path, bytes=file.bytes, modified=datetime.fromtimestamp(seconds, UTC))


@router.get(
    "/{job}/files/content",
    response_class=StreamingResponse,
    responses={
        200: {"description": "The file's bytes", "content": {"application/octet-stream": _BYTES}},
        206: {"description": "The part of it that was asked for", "content": {"application/octet-stream": _BYTES}},
        **documented(401, 404, 409, 416, 502),
    },
)
async def get_file(
    job: JobId,
    service: ServiceDep,
    path: FilePath,
    version: Version = None,
    range: Annotated[str | None, Header(max_length=100, description="one range of bytes, `bytes=0-999`")] = None,
) -> StreamingResponse:
    """Download a file that training wrote to `run.output_dir`, or one range of it."""
    found = await _found(service, job, version)
    if found is None:
        raise NotFoundError("file", path)
    file = found.file(path)
    span = _span(range, file.bytes)
    headers = {
        "Accept-Ranges": "bytes",
        "Cache-Control": "no-store",
        "Content-Disposition": f'attachment; filename="{_plain(file.path)}"',
        "X-Content-Type-Options": "nosniff",
    }
    if span is not None:
        headers["Content-Range"] = f"bytes {span.start}-{span.stop - 1}/{file.bytes}"
    all_of_it = span or Span(0, file.bytes)
    headers["Content-Length"] = str(all_of_it.stop - all_of_it.start)
    chunks = found.chunks(service.waiting, file, all_of_it)
    # before the answer begins, so that what cannot be read is told as such
    first = await anext(chunks, b"")
    return StreamingResponse(
        _joined(first, chunks),
        status_code=200 if span is None else 206,
        media_type="application/octet-stream",
        headers=headers,
    )


async def _joined(first: bytes, rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    if first:
        yield first
    async for chunk in rest:
        yield chunk


def _span(asked: str | None, size: int) -> Span | None:
    """The range that was asked for; None: the whole file, also where what was asked for is no single range of bytes."""
    found = _RANGE.match(asked.strip()) if asked else None
    if found is None:
        return None
    first, last, tail = found[1], found[2], found[3]
    start = max(0, size - int(tail)) if tail else int(first)
    stop = min(size, int(last) + 1) if last else size
    if first and last and int(last) < int(first):
        return None
    if start >= stop:
        raise ProblemError(
            416, f"the file has {size} bytes: there is no such range", headers={"Content-Range": f"bytes */{size}"}
        )
    return Span(start, stop)


def _plain(path: str) -> str:
    name = path.rpartition("/")[2]
    return "".join(c if c.isascii() and (c.isalnum() or c in "._-") else "_" for c in name)
