"""A small control plane in memory, for what no real one does on command: break off, be away, refuse a stream."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from typing import Any

import httpx
import pytest

from surefoot.events import Circumstances, EventKind, LedgerRow, Result
from surefoot.spec import JobSpec, JobState
from surefoot.views import JobView, NumberedEvent

BEGIN = datetime(2026, 1, 2, 3, 4, 5, tzinfo=timezone.utc)


def make_spec(**changes: Any) -> JobSpec:
    return JobSpec.model_validate({"entrypoint": "train:train", "package": "a" * 64, "batch_size": 64} | changes)


def make_view(job_id: str = "abc2345678", state: JobState = JobState.RUNNING, **changes: Any) -> JobView:
    fields = {"id": job_id, "spec": make_spec(), "state": state, "created_at": BEGIN, "wanted_trainers": 1}
    return JobView.model_validate(fields | changes)


def make_row(
    step: int,
    *,
    digest: str | None = None,
    trainers: int = 1,
    many: Mapping[str, float] | None = None,
    **values: float,
) -> LedgerRow:
    """`many`: values by names that are none of Python's, or as many as one likes."""
    digest = digest or f"{step:032x}"
    result = Result(
        step=step,
        first_sample=step * 64,
        num_samples=64,
        digest=digest,
        values={**values, **(many or {})} or {"loss": 1.0 / (step + 1)},
    )
    return LedgerRow(result=result, circumstances=Circumstances(generation=1, trainers=trainers, seconds=0.1))


def make_event(seq: int, kind: EventKind = EventKind.WARNING, /, **data: Any) -> NumberedEvent:
    return NumberedEvent(seq=seq, source="s", n=seq, at=BEGIN + timedelta(seconds=seq), kind=kind, data=data)


@dataclass
class Broken(httpx.SyncByteStream, httpx.AsyncByteStream):
    """A body that breaks off."""

    data: bytes

    def __iter__(self) -> Iterator[bytes]:
        yield self.data
        raise httpx.ReadError("broken off")

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield self.data
        raise httpx.ReadError("broken off")


@dataclass
class FakeService:
    """Jobs, and a plan of what goes wrong: each fault is taken by the next request whose path ends as it says."""

    jobs: dict[str, JobView] = field(default_factory=dict)
    events: list[NumberedEvent] = field(default_factory=list)
    rows: list[LedgerRow] = field(default_factory=list)
    packages: set[str] = field(default_factory=set)
    uploads: int = 0
    # as JobUsage has it
    usage: dict[str, Any] = field(default_factory=dict)
    # off: as a service before there were ledgers by lines
    by_lines: bool = True
    keys: dict[str, str] = field(default_factory=dict)
    # (end of the path, what happens)
    faults: list[tuple[str, Callable[[httpx.Request], httpx.Response]]] = field(default_factory=list)
    log: list[tuple[str, str]] = field(default_factory=list)
    requests: list[httpx.Request] = field(default_factory=list)

    @property
    def transport(self) -> httpx.MockTransport:
        return httpx.MockTransport(self.answer)

    def add(self, view: JobView) -> JobView:
        self.jobs[view.id] = view
        return view

    def answer(self, request: httpx.Request) -> httpx.Response:
        path = request.url.path
        self.log.append((request.method, path))
        self.requests.append(request)
        for fault in self.faults:
            if path.endswith(fault[0]):
                self.faults.remove(fault)
                return fault[1](request)
        parts = path.removeprefix("/v1/").split("/")
        match (request.method, *parts):
            case ("GET", "health"):
                return _json({"version": "1"})
            case ("GET", "packages", sha):
                return (
                    _json({"package": sha, "bytes": 1}) if sha in self.packages else problem(404, "there is no package")
                )
            case ("POST", "packages"):
                return self._upload(request)
            case ("POST", "jobs"):
                return self._submit(request)
            case ("GET", "jobs"):
                return self._list(request)
            case (_, "jobs", job, *rest):
                return self._job(request, job, rest)
        return problem(404, "no such route")

    def _upload(self, request: httpx.Request) -> httpx.Response:
        import hashlib

        self.uploads += 1
        sha = hashlib.sha256(request.content).hexdigest()
        self.packages.add(sha)
        return _json({"package": sha, "bytes": len(request.content)}, 201)

    def _submit(self, request: httpx.Request) -> httpx.Response:
        key = request.headers["idempotency-key"]
        if key not in self.keys:
            spec = JobSpec.model_validate_json(request.content)
            self.keys[key] = f"job{len(self.jobs)}"
            self.add(make_view(self.keys[key], JobState.QUEUED, spec=spec))
        return _view(self.jobs[self.keys[key]], 201)

    def _list(self, request: httpx.Request) -> httpx.Response:
        params = request.url.params
        views = list(reversed(self.jobs.values()))
        if before := params.get("before"):
            views = views[[view.id for view in views].index(before) + 1 :]
        if state := params.get("state"):
            views = [view for view in views if view.state == state]
        if beginning := params.get("beginning"):
            views = [view for view in views if view.id.startswith(beginning)]
        return _json({"jobs": [view.model_dump(mode="json") for view in views[: int(params["limit"])]]})

    def _job(self, request: httpx.Request, job: str, rest: list[str]) -> httpx.Response:
        view = self.jobs.get(job)
        if view is None:
            return problem(404, f"there is no job {job!r}")
        match (request.method, *rest):
            case ("GET",):
                return _view(view)
            case ("DELETE",):
                if not view.state.ended:
                    return problem(409, f"job {job} is {view.state}: cancel it first")
                del self.jobs[job]
                return httpx.Response(204)
            case ("POST", "resize"):
                return _view(
                    self.add(view.model_copy(update={"wanted_trainers": json.loads(request.content)["trainers"]}))
                )
            case ("POST", "cancel"):
                return _view(self.add(view.model_copy(update={"state": JobState.CANCELLED, "reason": "cancelled"})))
            case ("GET", "usage"):
                return problem(404, "Not Found")
            case ("GET", "events"):
                return self._events(request)
            case ("GET", "ledger"):
                return self._ledger(request)
            case ("GET", "usage"):
                return _json(self.usage)
            case ("GET", "stream"):
                return self.stream(request, view)
        return problem(404 if request.method == "GET" else 405, "not so")

    def _events(self, request: httpx.Request) -> httpx.Response:
        after, limit = int(request.url.params["after"]), int(request.url.params["limit"])
        found = [event for event in self.events if event.seq > after][:limit]
        return _json({"events": [event.model_dump(mode="json") for event in found]})

    def _ledger(self, request: httpx.Request) -> httpx.Response:
        start, limit = int(request.url.params["from_step"]), int(request.url.params["limit"])
        found = [row for row in self.rows if row.result.step >= start][:limit]
        if self.by_lines and "application/x-ndjson" in request.headers.get("accept", ""):
            lines = "".join(f"{row.model_dump_json()}\n" for row in found)
            return httpx.Response(200, headers={"content-type": "application/x-ndjson"}, content=lines.encode())
        return _json({"rows": [row.model_dump(mode="json") for row in found]})

    def messages(self, request: httpx.Request, view: JobView, upto: int | None = None) -> bytes:
        """The stream after the request's cursor, cut after `upto` messages."""
        seq, _, step = request.headers.get("last-event-id", "0-0").partition("-")
        out, at = [sse("job", view.model_dump_json(), f"{seq}-{step}")], [int(seq), int(step)]
        for event in [event for event in self.events if event.seq > int(seq)]:
            at[0] = event.seq
            out.append(sse("event", event.model_dump_json(), f"{at[0]}-{at[1]}"))
        for row in [row for row in self.rows if row.result.step >= int(step)]:
            at[1] = row.result.step + 1
            out.append(sse("row", row.model_dump_json(), f"{at[0]}-{at[1]}"))
        out.append(sse("job", view.model_dump_json(), f"{at[0]}-{at[1]}"))
        return b"".join(out[:upto])

    def stream(self, request: httpx.Request, view: JobView) -> httpx.Response:
        return httpx.Response(200, headers={"content-type": "text/event-stream"}, content=self.messages(request, view))

    def breaking_after(self, num_messages: int) -> Callable[[httpx.Request], httpx.Response]:
        """A fault: the stream of the only job breaks off after so many messages."""

        def fault(request: httpx.Request) -> httpx.Response:
            (view,) = self.jobs.values()
            data = self.messages(request, view, num_messages)
            return httpx.Response(200, headers={"content-type": "text/event-stream"}, stream=Broken(data))

        return fault


def sse(event: str, data: str, cursor: str) -> bytes:
    return f"event: {event}\ndata: {data}\nid: {cursor}\n\n".encode()


def refuse(request: httpx.Request) -> httpx.Response:
    """A fault: nobody listens."""
    raise httpx.ConnectError("[Errno 111] Connection refused", request=request)


def problem(status: int, detail: str, errors: tuple[tuple[str, str], ...] = ()) -> httpx.Response:
    from http import HTTPStatus

    body = {"type": "about:blank", "title": HTTPStatus(status).phrase, "status": status, "detail": detail}
    body["errors"] = [{"field": name, "message": message} for name, message in errors]
    return httpx.Response(
        status, headers={"content-type": "application/problem+json"}, content=json.dumps(body).encode()
    )


def _json(value: Any, status: int = 200) -> httpx.Response:
    return httpx.Response(status, headers={"content-type": "application/json"}, content=json.dumps(value).encode())


def _view(view: JobView, status: int = 200) -> httpx.Response:
    return _json(view.model_dump(mode="json"), status)


@pytest.fixture
def fake() -> FakeService:
    return FakeService()


@pytest.fixture(autouse=True)
def _own_data_folder(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test finds the control plane, or the token, of whoever runs it."""
    monkeypatch.setenv("SUREFOOT_DATA", str(tmp_path / "nothing-here"))
    for name in ("SUREFOOT_URL", "SUREFOOT_TOKEN", "SUREFOOT_TRAINER"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def code(tmp_path: Any) -> Any:
    """A folder with a train function."""
    folder = tmp_path / "code"
    folder.mkdir()
    (folder / "train.py").write_text("def train(run):\n    pass\n")
    return folder


# of `transport`
JOB = "abc2345678"


@pytest.fixture
def transport(fake: FakeService) -> httpx.MockTransport:
    """A service that has something of all that can be asked for: a job that has ended, with its rows, files and lines, and a secret."""
    fake.add(make_view(JOB, JobState.SUCCEEDED, ended_at="2026-01-02T04:00:00Z", steps_done=3, num_steps=3))
    fake.rows = [make_row(n, loss=0.5) for n in range(3)]
    fake.events = [make_event(1, EventKind.STATE, state="succeeded")]
    file = {"path": "a/b", "bytes": 3, "modified": "2026-01-01T00:00:00Z"}
    secret = {"name": "A_KEY", "version": 1, "owner": "x", "created_at": "2026-01-01T00:00:00Z"}

    def answer(request: httpx.Request) -> httpx.Response:
        path = request.url.path.removeprefix("/v1/").split("/")
        match (request.method, *path):
            case ("GET", "jobs", _, "model") | ("GET", "jobs", _, "files", "content"):
                return httpx.Response(200, content=b"abc", headers={"content-length": "3"})
            case ("GET", "jobs", _, "files"):
                return _json({"files": [file], "version": "1"})
            case ("GET", "jobs", _, "logs"):
                return _json({"lines": [], "next": 0, "first": 0, "more": False, "done": True})
            case ("POST", "jobs") if b'"from"' in request.content:
                return _view(make_view(JOB), 201)
            case ("GET", "secrets"):
                return _json({"secrets": [secret]})
            case (_, "secrets", "keys", *_):
                return _json({"secrets": 1, "made": True})
            case (_, "secrets", *_):
                return _json(secret)
        return fake.answer(request)

    return httpx.MockTransport(answer)
