"""The SDK: `Client` and `Job`. A thin shell over `_requests`, `_flows` and `_follow`; `aclient` is its twin."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import httpx
from tenacity import Retrying
from typing_extensions import Self, Unpack

from surefoot._files import Fetching, all_files, content_path, model_path, module_named
from surefoot._flows import RowPages, all_events, all_rows, conclude, id_of, jobs, resolve, rests, submit, submit_from
from surefoot._follow import Follower, Update
from surefoot._given import a_path
from surefoot._logs import LogOptions, LogPages
from surefoot._network import open_client
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
from surefoot._secrets import Secrets
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

__all__ = ["Client", "Job"]

T = TypeVar("T")


class Client:
    """A control plane, as seen from here. Safe to use from several threads; close it, or use it in a `with`.

    `url` and `token` default to SUREFOOT_URL and SUREFOOT_TOKEN, and then to the `surefoot up` that runs on this machine.
    `transport` replaces the network (an httpx transport: a proxy, or a test's).
    """

    def __init__(
        self, url: str | None = None, token: str | None = None, *, transport: httpx.BaseTransport | None = None
    ) -> None:
        self.where = find(url, token)
        self._http = open_client(
            self.where.url, direct=self.where.own, transport=transport, **client_options(self.where)
        )
        #: the control plane's secrets: set, listed, rotated, removed
        self.secrets = Secrets(self)

    def submit(self, train: str | Callable[..., Any], **options: Unpack[SubmitOptions]) -> Job:
        """Package the code, upload it unless the service has it, and submit the job. See `SubmitOptions`.

        `train` is a top-level function, or "module:function". Raises EntrypointError, PackageError and SpecError before anything is
        sent, and ServiceError for what the service refuses.
        """
        return Job(self, self._run(submit(prepare(train, **options))))

    def submit_from(self, job: Job | str, **changes: Any) -> Job:
        """Submit a job's code again, with other options: see `SubmitOptions`, but for `folder`.

        Of `config`, `env`, `secrets` and `checkpoint` what is given goes over that job's, name by name. Raises as `submit` does.
        """
        return Job(self, self._run(submit_from(id_of(job), changes)))

    def job(self, ref: str) -> Job:
        """Return the job with this id, this unique beginning of an id, or "last". Raises NotFoundError."""
        return Job(self, self._run(resolve(ref)))

    def jobs(self, *, state: JobState | StateName | None = None, limit: int = 50) -> list[Job]:
        """Return the newest jobs first."""
        return [Job(self, view) for view in self._run(jobs(a_state(state), limit))]

    def delete(self, job: Job | str, *, checkpoints: bool = False) -> None:
        """Delete a job that has ended, with its history; `job` is one, or a whole id.

        `checkpoints`: its checkpoints and its final model too, which are removed in the background. Deleting again changes nothing.
        Raises ConflictError for one that has not ended, NotFoundError for one that never was.
        """
        self._run(ask(delete_job(id_of(job), checkpoints=checkpoints)))

    def health(self) -> Health:
        """Ask whether the service answers."""
        return self._run(ask(get_health()))

    def close(self) -> None:
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # ---- carrying

    def _run(self, flow: Flow[T]) -> T:
        try:
            call = next(flow)
            while True:
                try:
                    answer = self._perform(call)
                except SurefootError as error:
                    call = flow.throw(error)
                else:
                    call = flow.send(answer)
        except StopIteration as stop:
            result: T = stop.value
            return result

    def _perform(self, call: Call[T]) -> T:
        try:
            answer: T = Retrying(**RETRY)(self._send, call)
        except TRANSIENT as error:
            raise unreachable(self.where, error) from error
        return answer

    def _send(self, call: Call[T]) -> T:
        with telling(self.where, self._http), self._http.stream(**request_options(call)) as response:
            return receive(call, self._read(response))

    def _read(self, response: httpx.Response) -> Answer:
        body = Body(self.where)
        for chunk in response.iter_bytes():
            body.take(chunk)
        return Answer(status=response.status_code, body=body.content, location=response.headers.get("location", ""))

    def _download(self, path: str, params: dict[str, str], to: Path, num_bytes: int | None = None) -> Path:
        """Stream to a file, which is there whole or not at all; `num_bytes`: as it was listed."""
        try:
            with (
                telling(self.where, self._http),
                part_of(to) as file,
                self._http.stream("GET", path, params=params, headers=AS_IT_IS) as response,
            ):
                if not response.is_success:
                    raise error_of(self._read(response))
                download = Download(self.where, response, num_bytes)
                for chunk in response.iter_bytes():
                    file.write(download.take(chunk))
                download.end()
        except TRANSIENT as error:
            raise unreachable(self.where, error) from error
        return to

    def _follow(self, job_id: str, deadline: Deadline) -> Iterator[Update]:
        follower = Follower(job_id)
        while not follower.done:
            try:
                yield from self._run(follower.poll()) if follower.polling else self._stream(follower, deadline)
            except TRANSIENT as error:
                if not deadline.cut(error):
                    follower.failed(error, time.monotonic())
            if deadline.passed and not follower.done:
                raise TimeoutError(f"job {job_id} has not ended within {deadline.timeout_s:g} s")
            if not follower.done:
                time.sleep(deadline.cap(follower.pause_s()))

    def _stream(self, follower: Follower, deadline: Deadline) -> Iterator[Update]:
        timeout = stream_timeout(deadline)
        with (
            telling(self.where, self._http),
            self._http.stream("GET", follower.path, headers=follower.headers(), timeout=timeout) as response,
        ):
            if not response.headers.get("content-type", "").startswith("text/event-stream"):
                return follower.refused(self._read(response))
            for chunk in response.iter_bytes():
                yield from follower.feed(chunk)
                if deadline.nearer_than(timeout):
                    return None
        return follower.closed()


class Job:
    """A job. What it knows is as of the last answer: `refresh()` asks again."""

    def __init__(self, client: Client, view: JobView) -> None:
        self._client = client
        #: everything the service told last
        self.view = view

    def __repr__(self) -> str:
        return f"Job({self.id!r}, state={self.state.value!r})"

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

    def refresh(self) -> Self:
        """Ask the service how the job is now."""
        self.view = self._client._run(ask(get_job(self.id)))
        return self

    def wait(self, timeout: float | None = None, *, raise_on_failure: bool = True) -> JobView:
        """Wait until the job has ended, at most `timeout` seconds.

        Raises JobFailedError, with the traceback, unless it succeeded or `raise_on_failure` is off; TimeoutError; and
        ServiceUnavailableError when nobody has answered for two minutes.
        """
        if not self.view.ended:
            for _ in self.follow(timeout):
                pass
        return conclude(self.view, raise_on_failure=raise_on_failure)

    def follow(self, timeout: float | None = None) -> Iterator[Update]:
        """Yield all that happened and happens, until the job has ended: numbered events, ledger rows, and views of the job.

        Each once and in the order stored; broken connections are resumed. Raises as `wait` does, but not for a failed job.
        """
        for update in self._client._follow(self.id, Deadline(timeout)):
            if isinstance(update, JobView):
                self.view = update
            yield update

    def events(self, *, follow: bool = False) -> Iterator[NumberedEvent]:
        """Yield the events so far, oldest first; with `follow`, until the job has ended."""
        if follow:
            return (update for update in self.follow() if isinstance(update, NumberedEvent))
        return iter(self._client._run(all_events(self.id)))

    def rows(self, *, follow: bool = False) -> Iterator[LedgerRow]:
        """Yield the ledger's rows so far, by step; with `follow`, until the job has ended."""
        if follow:
            return (update for update in self.follow() if isinstance(update, LedgerRow))
        return self.iter_ledger()

    def ledger(self) -> list[LedgerRow]:
        """Return the ledger's rows so far, by step."""
        return self._client._run(all_rows(self.id))

    def iter_ledger(self, *, from_step: int = 0) -> Iterator[LedgerRow]:
        """Yield the ledger's rows so far, by step, reading them page by page: memory does not grow with the ledger."""
        for line in self.iter_ledger_json(from_step=from_step):
            yield read_row(line)

    def iter_ledger_json(self, *, from_step: int = 0) -> Iterator[bytes]:
        """The same rows as the JSON they are kept as, a line each, unread."""
        pages = RowPages(self.id, from_step)
        while not pages.done:
            yield from self._client._run(pages.next())

    def logs(self, *, follow: bool = False, **wanted: Unpack[LogOptions]) -> Iterator[LogLine]:
        """Yield the lines that the job's processes printed, in the order in which they came; with `follow`, until nothing more will.

        See `LogOptions` for which. Each process's lines are in the order in which it printed them.
        """
        pages = LogPages(self.id, wanted, follow=follow)
        while not pages.done:
            yield from self._client._run(pages.next())

    def resize(self, trainers: int) -> Self:
        """Ask for another number of trainers; the job goes on meanwhile. Raises SpecError and ConflictError."""
        self.view = self._client._run(ask(resize_job(self.id, trainers)))
        return self

    def pause(self, *, wait: bool = False) -> Self:
        """Stop the job at a step boundary and save it; with `wait`, return when it is paused, or has ended. `resume` goes on."""
        self.view = self._client._run(ask(pause_job(self.id)))
        if wait and not rests(self.view):
            for _ in self.follow():
                if rests(self.view):
                    break
        return self

    def resume(self) -> Self:
        """Queue a paused job again: it goes on from its newest checkpoint, to the same result. Raises ConflictError."""
        self.view = self._client._run(ask(resume_job(self.id)))
        return self

    def checkpoint(self) -> Self:
        """Have a checkpoint made at the next step boundary; an event tells when it is durable."""
        self.view = self._client._run(ask(checkpoint_job(self.id)))
        return self

    def checkpoints(self) -> list[CheckpointView]:
        """Return the checkpoints that were told to be durable, newest first; old ones may have been removed."""
        return list((self._client._run(ask(get_checkpoints(self.id)))).checkpoints)

    def usage(self) -> JobUsage:
        """Ask what the job has used and cost so far, and what the rest takes with each number of trainers."""
        return self._client._run(ask(get_usage(self.id)))

    def system(self, *, history: bool = False) -> list[SystemPoint]:
        """Return what the job's trainers use: each one's newest sample, or with `history` all that are kept, oldest first."""
        return list((self._client._run(ask(get_system(self.id, history=history)))).samples)

    def set_budget(self, *, max_cost: float | None = None, max_hours: float | None = None) -> Self:
        """Give the job another budget, in place of the one it has; None: no bound. Raises SpecError and ConflictError.

        A job that was paused as its budget was spent goes on by `resume`.
        """
        self.view = self._client._run(ask(set_budget(self.id, max_cost, max_hours)))
        return self

    def inject_fault(self, kind: FaultKind | FaultName, *, leave: int = 1) -> Self:
        """Do the job a fault, for real: see FaultKind. An event tells when it is done, or a warning why it is not.

        At least `leave` trainers that hold the run's state live on; with 0 the last may be hit: the job goes back to a checkpoint.
        """
        self.view = self._client._run(ask(inject_fault(self.id, a_fault(kind), leave)))
        return self

    def download_model(self, path: str | os.PathLike[str], *, module: str | None = None) -> Path:
        """Write the final model, a safetensors file, to `path`; `module` names it where several are tracked. Raises NotFoundError."""
        return self._client._download(model_path(self.id), module_named(module), a_path(path, "path"))

    def files(self, prefix: str = "") -> FileList:
        """Return the files that training wrote to `run.output_dir`, as they were synchronised last; only those under `prefix`."""
        return self._client._run(all_files(self.id, prefix))

    def download_files(self, to: str | os.PathLike[str], *, path: str = "") -> list[Path]:
        """Fetch these files, or the file or folder of them that `path` names, to below the folder `to`; return where they are.

        All are of one synchronisation. Raises NotFoundError.
        """
        fetching, where = Fetching(path, a_path(to, "to")), content_path(self.id)
        while True:
            try:
                found = self.files()
                for file, target in fetching.missing(found):
                    asked = {"path": file.path, "version": found.version}
                    self._client._download(where, asked, target, file.bytes)
                    fetching.fetched(file, target)
                return fetching.files
            except ConflictError:  # the job has kept others since
                if not fetching.goes_on():
                    raise

    def cancel(self, *, wait: bool = False) -> Self:
        """Cancel the job; with `wait`, return when nothing of it is left. Changes nothing of a job that has ended."""
        self.view = self._client._run(ask(cancel_job(self.id)))
        if wait:
            self.wait(raise_on_failure=False)
        return self
