"""The SDK for asyncio: `AsyncClient` and `AsyncJob`, the twins of `client`'s, over the same core."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import httpx
from tenacity import AsyncRetrying
from typing_extensions import Self, Unpack

from surefoot._files import Fetching, all_files, content_path, model_path, module_named
from surefoot._flows import RowPages, all_events, all_rows, conclude, id_of, jobs, resolve, rests, submit, submit_from
from surefoot._follow import Follower, Update
from surefoot._given import a_path
from surefoot._logs import LogOptions, LogPages
from surefoot._network import open_async_client
from surefoot._requests import (
    Answer,
    Call,
    Flow,
    ask,
    cancel_job,
    checkpoint_job,
    delete_job,
    error_of,
    get_checkpoints,
    get_health,
    get_job,
    get_system,
    get_usage,
    inject_fault,
    pause_job,
    receive,
    resize_job,
    resume_job,
    set_budget,
)
from surefoot._secrets import AsyncSecrets
from surefoot._transport import (
    AS_IT_IS,
    RETRY,
    TRANSIENT,
    Body,
    Deadline,
    Download,
    client_options,
    part_of,
    request_options,
    stream_timeout,
    telling,
    unreachable,
)
from surefoot._where import find
from surefoot._words import a_fault, a_state
from surefoot.errors import ConflictError, SurefootError
from surefoot.events import FaultKind, LedgerRow
from surefoot.ledger import read_row
from surefoot.logs import LogLine
from surefoot.output import FileList
from surefoot.spec import JobSpec, JobState, StateName
from surefoot.submission import SubmitOptions, prepare
from surefoot.system import SystemPoint
from surefoot.usage import JobUsage
from surefoot.views import CheckpointView, Health, JobView, NumberedEvent
from surefoot.words import FaultName, UnknownWord

__all__ = ["AsyncClient", "AsyncJob"]

T = TypeVar("T")


class AsyncClient:
    """A control plane, as seen from here: `Client` for asyncio. Close it, or use it in an `async with`."""

    def __init__(
        self, url: str | None = None, token: str | None = None, *, transport: httpx.AsyncBaseTransport | None = None
    ) -> None:
        self.where = find(url, token)
        self._http = open_async_client(
            self.where.url, direct=self.where.own, transport=transport, **client_options(self.where)
        )
        #: the control plane's secrets: set, listed, rotated, removed
        self.secrets = AsyncSecrets(self)

    async def submit(self, train: str | Callable[..., Any], **options: Unpack[SubmitOptions]) -> AsyncJob:
        """As `Client.submit`; the folder is packed on another thread."""
        submission = await asyncio.to_thread(prepare, train, **options)
        return AsyncJob(self, await self._run(submit(submission)))

    async def submit_from(self, job: AsyncJob | str, **changes: Any) -> AsyncJob:
        """As `Client.submit_from`."""
        return AsyncJob(self, await self._run(submit_from(id_of(job), changes)))

    async def job(self, ref: str) -> AsyncJob:
        """As `Client.job`."""
        return AsyncJob(self, await self._run(resolve(ref)))

    async def jobs(self, *, state: JobState | StateName | None = None, limit: int = 50) -> list[AsyncJob]:
        """As `Client.jobs`."""
        return [AsyncJob(self, view) for view in await self._run(jobs(a_state(state), limit))]

    async def delete(self, job: AsyncJob | str, *, checkpoints: bool = False) -> None:
        """As `Client.delete`."""
        await self._run(ask(delete_job(id_of(job), checkpoints=checkpoints)))

    async def health(self) -> Health:
        """As `Client.health`."""
        return await self._run(ask(get_health()))

    async def aclose(self) -> None:
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    # ---- carrying

    async def _run(self, flow: Flow[T]) -> T:
        try:
            call = next(flow)
            while True:
                try:
                    answer = await self._perform(call)
                except SurefootError as error:
                    call = flow.throw(error)
                else:
                    call = flow.send(answer)
        except StopIteration as stop:
            result: T = stop.value
            return result

    async def _perform(self, call: Call[T]) -> T:
        try:
            return await AsyncRetrying(**RETRY)(self._send, call)
        except TRANSIENT as error:
            raise unreachable(self.where, error) from error

    async def _send(self, call: Call[T]) -> T:
        with telling(self.where, self._http):
            async with self._http.stream(**request_options(call)) as response:
                return receive(call, await self._read(response))

    async def _read(self, response: httpx.Response) -> Answer:
        body = Body(self.where)
        async for chunk in response.aiter_bytes():
            body.take(chunk)
        return Answer(status=response.status_code, body=body.content, location=response.headers.get("location", ""))

    async def _download(self, path: str, params: dict[str, str], to: Path, num_bytes: int | None = None) -> Path:
        """As `Client._download`."""
        try:
            with telling(self.where, self._http), part_of(to) as file:
                async with self._http.stream("GET", path, params=params, headers=AS_IT_IS) as response:
                    if not response.is_success:
                        raise error_of(await self._read(response))
                    download = Download(self.where, response, num_bytes)
                    async for chunk in response.aiter_bytes():
                        file.write(download.take(chunk))
                    download.end()
        except TRANSIENT as error:
            raise unreachable(self.where, error) from error
        return to

    async def _follow(self, job_id: str, deadline: Deadline) -> AsyncIterator[Update]:
        follower = Follower(job_id)
        while not follower.done:
            try:
                async for update in self._updates(follower, deadline):
                    yield update
            except TRANSIENT as error:
                if not deadline.cut(error):
                    follower.failed(error, time.monotonic())
            if deadline.passed and not follower.done:
                raise TimeoutError(f"job {job_id} has not ended within {deadline.timeout_s:g} s")
            if not follower.done:
                await asyncio.sleep(deadline.cap(follower.pause_s()))

    async def _updates(self, follower: Follower, deadline: Deadline) -> AsyncIterator[Update]:
        if follower.polling:
            for update in await self._run(follower.poll()):
                yield update
            return
        timeout = stream_timeout(deadline)
        with telling(self.where, self._http):
            async with self._http.stream("GET", follower.path, headers=follower.headers(), timeout=timeout) as response:
                if not response.headers.get("content-type", "").startswith("text/event-stream"):
                    follower.refused(await self._read(response))
                    return
                async for chunk in response.aiter_bytes():
                    for update in follower.feed(chunk):
                        yield update
                    if deadline.nearer_than(timeout):
                        return
        follower.closed()


class AsyncJob:
    """A job: `Job` for asyncio. What it knows is as of the last answer: `refresh()` asks again."""

    def __init__(self, client: AsyncClient, view: JobView) -> None:
        self._client = client
        #: everything the service told last
        self.view = view

    def __repr__(self) -> str:
        return f"AsyncJob({self.id!r}, state={self.state.value!r})"

    @property
    def id(self) -> str:
        return self.view.id

    @property
    def spec(self) -> JobSpec:
        return self.view.spec

    @property
    def state(self) -> JobState | UnknownWord:
        """The state at the last answer; the bare word for one that only a newer service knows."""
        return self.view.state

    async def refresh(self) -> Self:
        """As `Job.refresh`."""
        self.view = await self._client._run(ask(get_job(self.id)))
        return self

    async def wait(self, timeout: float | None = None, *, raise_on_failure: bool = True) -> JobView:
        """As `Job.wait`."""
        if not self.view.ended:
            async for _ in self.follow(timeout):
                pass
        return conclude(self.view, raise_on_failure=raise_on_failure)

    async def follow(self, timeout: float | None = None) -> AsyncIterator[Update]:
        """As `Job.follow`."""
        async for update in self._client._follow(self.id, Deadline(timeout)):
            if isinstance(update, JobView):
                self.view = update
            yield update

    async def events(self, *, follow: bool = False) -> AsyncIterator[NumberedEvent]:
        """As `Job.events`."""
        if follow:
            async for update in self.follow():
                if isinstance(update, NumberedEvent):
                    yield update
        else:
            for event in await self._client._run(all_events(self.id)):
                yield event

    async def rows(self, *, follow: bool = False) -> AsyncIterator[LedgerRow]:
        """As `Job.rows`."""
        if follow:
            async for update in self.follow():
                if isinstance(update, LedgerRow):
                    yield update
        else:
            for row in await self.ledger():
                yield row

    async def ledger(self) -> list[LedgerRow]:
        """As `Job.ledger`."""
        return await self._client._run(all_rows(self.id))

    async def iter_ledger(self, *, from_step: int = 0) -> AsyncIterator[LedgerRow]:
        """As `Job.iter_ledger`."""
        async for line in self.iter_ledger_json(from_step=from_step):
            yield read_row(line)

    async def iter_ledger_json(self, *, from_step: int = 0) -> AsyncIterator[bytes]:
        """As `Job.iter_ledger_json`."""
        pages = RowPages(self.id, from_step)
        while not pages.done:
            for line in await self._client._run(pages.next()):
                yield line

    async def logs(self, *, follow: bool = False, **wanted: Unpack[LogOptions]) -> AsyncIterator[LogLine]:
        """As `Job.logs`."""
        pages = LogPages(self.id, wanted, follow=follow)
        while not pages.done:
            for line in await self._client._run(pages.next()):
                yield line

    async def resize(self, trainers: int) -> Self:
        """As `Job.resize`."""
        self.view = await self._client._run(ask(resize_job(self.id, trainers)))
        return self

    async def pause(self, *, wait: bool = False) -> Self:
        """As `Job.pause`."""
        self.view = await self._client._run(ask(pause_job(self.id)))
        if wait and not rests(self.view):
            async for _ in self.follow():
                if rests(self.view):
                    break
        return self

    async def resume(self) -> Self:
        """As `Job.resume`."""
        self.view = await self._client._run(ask(resume_job(self.id)))
        return self

    async def checkpoint(self) -> Self:
        """As `Job.checkpoint`."""
        self.view = await self._client._run(ask(checkpoint_job(self.id)))
        return self

    async def checkpoints(self) -> list[CheckpointView]:
        """As `Job.checkpoints`."""
        return list((await self._client._run(ask(get_checkpoints(self.id)))).checkpoints)

    async def usage(self) -> JobUsage:
        """As `Job.usage`."""
        return await self._client._run(ask(get_usage(self.id)))

    async def system(self, *, history: bool = False) -> list[SystemPoint]:
        """As `Job.system`."""
        return list((await self._client._run(ask(get_system(self.id, history=history)))).samples)

    async def set_budget(self, *, max_cost: float | None = None, max_hours: float | None = None) -> Self:
        """As `Job.set_budget`."""
        self.view = await self._client._run(ask(set_budget(self.id, max_cost, max_hours)))
        return self

    async def inject_fault(self, kind: FaultKind | FaultName, *, leave: int = 1) -> Self:
        """As `Job.inject_fault`."""
        self.view = await self._client._run(ask(inject_fault(self.id, a_fault(kind), leave)))
        return self

    async def download_model(self, path: str | os.PathLike[str], *, module: str | None = None) -> Path:
        """As `Job.download_model`."""
        return await self._client._download(model_path(self.id), module_named(module), a_path(path, "path"))

    async def files(self, prefix: str = "") -> FileList:
        """As `Job.files`."""
        return await self._client._run(all_files(self.id, prefix))

    async def download_files(self, to: str | os.PathLike[str], *, path: str = "") -> list[Path]:
        """As `Job.download_files`."""
        fetching, where = Fetching(path, a_path(to, "to")), content_path(self.id)
        while True:
            try:
                found = await self.files()
                for file, target in fetching.missing(found):
                    asked = {"path": file.path, "version": found.version}
                    await self._client._download(where, asked, target, file.bytes)
                    fetching.fetched(file, target)
                return fetching.files
            except ConflictError:  # the job has kept others since
                if not fetching.goes_on():
                    raise

    async def cancel(self, *, wait: bool = False) -> Self:
        """As `Job.cancel`."""
        self.view = await self._client._run(ask(cancel_job(self.id)))
        if wait:
            await self.wait(raise_on_failure=False)
        return self
