"""Both clients against a control plane that fails on command. Each test runs for `Client` and for `AsyncClient`."""

from __future__ import annotations

import asyncio
import inspect
import sys
import threading
import zipfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.api.conftest import FakeService, make_event, make_row, make_spec, make_view, problem, refuse

import surefoot
from surefoot import AsyncClient, AsyncJob, Client, Job, _transport
from surefoot.errors import (
    EntrypointError,
    JobFailedError,
    NotFoundError,
    ServiceUnavailableError,
    SpecError,
    UnauthorizedError,
    UserError,
)
from surefoot.spec import JobState
from surefoot.submission import INSIDE_A_TRAINER
from surefoot.views import JobView

URL = "http://127.0.0.1:8470"


class Either:
    """One face for both clients: coroutines are run, async iterators are gathered."""

    def __init__(self, inner: Any, loop: asyncio.AbstractEventLoop | None) -> None:
        self._inner, self._loop = inner, loop

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._inner, name)
        if not callable(found):
            return found
        return lambda *args, **kwargs: self._settle(found(*args, **kwargs))

    def _settle(self, value: Any) -> Any:
        if self._loop is not None and inspect.iscoroutine(value):
            value = self._loop.run_until_complete(value)
        if self._loop is not None and isinstance(value, AsyncIterator):
            value = self._loop.run_until_complete(_gather(value))
        if isinstance(value, Iterator):
            return list(value)
        if isinstance(value, list) and value and isinstance(value[0], Job | AsyncJob):
            return [Either(item, self._loop) for item in value]
        return Either(value, self._loop) if isinstance(value, Job | AsyncJob) else value


async def _gather(items: AsyncIterator[Any]) -> list[Any]:
    return [item async for item in items]


Connect = Callable[..., Either]


@pytest.fixture(params=["sync", "async"])
def connect(request: pytest.FixtureRequest, fake: FakeService) -> Iterator[Connect]:
    if request.param == "sync":
        with Client(URL, "token", transport=fake.transport) as client:
            yield lambda: Either(client, None)
    else:
        with closing(asyncio.new_event_loop()) as loop:
            aclient = AsyncClient(URL, "token", transport=fake.transport)
            yield lambda: Either(aclient, loop)
            loop.run_until_complete(aclient.aclose())
            loop.run_until_complete(loop.shutdown_asyncgens())


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Retries and reconnections come at once."""
    monkeypatch.setitem(_transport.RETRY, "wait", lambda state: 0.0)
    monkeypatch.setattr("surefoot._follow.POLL_S", 0.0)
    monkeypatch.setattr("surefoot._follow.Follower.pause_s", lambda self: 0.0)


# ---- submitting


def test_submit_uploads_once_and_submits(connect: Connect, fake: FakeService, code: Path) -> None:
    client = connect()
    first = client.submit(
        "train:train", folder=code, batch_size=64, trainers=2, config={"lr": 0.1}, cpus=2.0, pip=["numpy"]
    )
    second = client.submit("train:train", folder=code, batch_size=64)
    assert fake.uploads == 1
    assert first.id != second.id
    assert first.state is JobState.QUEUED
    spec = first.spec
    assert (spec.name, spec.entrypoint, spec.trainers, spec.config) == ("train", "train:train", 2, {"lr": 0.1})
    assert (spec.resources.cpus, spec.pip, spec.package) == (2.0, ("numpy",), second.spec.package)
    assert fake.packages == {spec.package}


def test_a_lost_answer_makes_no_second_job(connect: Connect, fake: FakeService, code: Path) -> None:
    def lose(request: httpx.Request) -> httpx.Response:
        fake.answer(request)
        raise httpx.ReadError("connection reset")

    fake.faults.append(("/v1/jobs", lose))
    job = connect().submit("train:train", folder=code, batch_size=64)
    assert list(fake.jobs) == [job.id]
    assert fake.log.count(("POST", "/v1/jobs")) == 3  # sent, seen by the fault, sent again


def test_mistakes_are_found_before_anything_is_sent(connect: Connect, fake: FakeService, code: Path) -> None:
    client = connect()
    with pytest.raises(SpecError, match="batch_size 63 is not a multiple of sub_tasks 8"):
        client.submit("train:train", folder=code, batch_size=63)
    with pytest.raises(SpecError, match=r"(?s)seed: .*greater than or equal to 0"):
        client.submit("train:train", folder=code, batch_size=64, seed=-1)
    with pytest.raises(SpecError, match=r"config\.x"):
        client.submit("train:train", folder=code, batch_size=64, config={"x": object()})
    with pytest.raises(EntrypointError, match="no function 'nothing'"):
        client.submit("train:nothing", folder=code, batch_size=64)
    with pytest.raises(TypeError, match="submit\\(\\) takes no trainer;"):
        client.submit("train:train", folder=code, batch_size=64, trainer=3)
    with pytest.raises(TypeError, match="batch_size"):
        client.submit("train:train", folder=code)
    assert fake.log == []


def test_an_ignored_entrypoint_is_told(connect: Connect, fake: FakeService, code: Path) -> None:
    (code / ".gitignore").write_text("train.py\n")
    with pytest.raises(
        UserError, match=r"train\.py, which holds the entrypoint, is left out of the package by \.gitignore line 1"
    ):
        connect().submit("train:train", folder=code, batch_size=64)
    assert fake.log == []


def test_a_trainer_that_imports_a_submitting_script_is_stopped(
    connect: Connect, fake: FakeService, code: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SUREFOOT_TRAINER", "t1")
    with pytest.raises(UserError, match="__main__"):
        connect().submit("train:train", folder=code, batch_size=64)


def test_trainers_are_told_that_they_are_trainers() -> None:
    environment = pytest.importorskip("surefoot_actors.cluster.environment")
    assert environment.trainer_env(make_spec())[INSIDE_A_TRAINER]


def test_a_function_is_packaged_with_its_folder(
    connect: Connect, fake: FakeService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "own"
    folder.mkdir()
    (folder / "sf_train_here.py").write_text("def train(run): ...\n")
    monkeypatch.syspath_prepend(str(folder))
    import sf_train_here  # type: ignore[import-not-found]

    try:
        job = connect().submit(sf_train_here.train, batch_size=8)
    finally:
        del sys.modules["sf_train_here"]
    assert job.spec.entrypoint == "sf_train_here:train"
    upload = next(
        request for request in fake.requests if request.method == "POST" and request.url.path == "/v1/packages"
    )
    path = tmp_path / "got.zip"
    path.write_bytes(upload.content)
    with zipfile.ZipFile(path) as archive:
        assert archive.namelist() == ["sf_train_here.py"]


# ---- finding jobs


def test_jobs_are_found_by_id_beginning_and_last(connect: Connect, fake: FakeService) -> None:
    for name in ("abc1", "abc2", "xyz3"):
        fake.add(make_view(name))
    client = connect()
    assert client.job("abc1").id == "abc1"
    assert client.job("x").id == "xyz3"
    assert client.job("last").id == "xyz3"
    with pytest.raises(UserError, match=r"beginning of several jobs \(abc2, abc1\)"):
        client.job("abc")
    with pytest.raises(NotFoundError, match="there is no job 'q'"):
        client.job("q")
    for nonsense in ("", "../x", "A B", "x/resize"):
        with pytest.raises(UserError, match="no job id"):
            client.job(nonsense)


def test_the_beginning_of_an_id_is_looked_up_by_one_request(connect: Connect, fake: FakeService) -> None:
    for n in range(300):
        fake.add(make_view(f"{'abc' if n < 30 else 'xyz'}{n}"))
    client = connect()
    with pytest.raises(UserError, match=r"\(abc29, abc28, abc27, abc26, \.\.\.\)"):
        client.job("abc")
    assert client.job("abc17").id == "abc17"
    assert client.job("abc0").id == "abc0"
    fake.log.clear()
    with pytest.raises(UserError):
        client.job("ab")
    assert fake.log == [("GET", "/v1/jobs/ab"), ("GET", "/v1/jobs")]
    assert dict(fake.requests[-1].url.params) == {"limit": "5", "beginning": "ab"}


def test_an_older_control_plane_lists_what_was_not_asked_for(connect: Connect, fake: FakeService) -> None:
    older = [make_view("abc1").model_dump(mode="json"), make_view("xyz3").model_dump(mode="json")]
    fake.faults += [("/v1/jobs", lambda _: httpx.Response(200, json={"jobs": older}))] * 2
    assert connect().job("x").id == "xyz3"
    with pytest.raises(NotFoundError, match="there is no job 'q'"):
        connect().job("q")


def test_a_job_to_begin_from_is_found_the_same_way(connect: Connect, fake: FakeService, code: Path) -> None:
    for name in ("abc1", "abc2", "xyz3"):
        fake.add(make_view(name))
    client = connect()

    def began(restore: str) -> object:
        return client.submit("train:train", folder=code, batch_size=8, restore=restore).spec.restore

    assert began("last") == "xyz3"
    assert began("abc1") == "abc1"
    assert [began("x"), began("s3://b/last"), began("/x")] == ["xyz3", "s3://b/last", "/x"]
    assert began("q") == "q", "the control plane says that there is none, and what else it may be"
    with pytest.raises(UserError, match="several jobs"):
        began("abc")


def test_no_job_yet(connect: Connect, fake: FakeService) -> None:
    with pytest.raises(NotFoundError, match="there is no job yet"):
        connect().job("last")


def test_listing_goes_on_over_pages(connect: Connect, fake: FakeService) -> None:
    for n in range(450):
        fake.add(make_view(f"j{n}", JobState.RUNNING if n % 2 else JobState.QUEUED))
    client = connect()
    assert [job.id for job in client.jobs(limit=430)] == [f"j{n}" for n in range(449, 19, -1)]
    assert len(client.jobs(limit=1000)) == 450
    assert len(client.jobs(limit=1000, state=JobState.RUNNING)) == 225


# ---- following


def test_wait_returns_the_end(connect: Connect, fake: FakeService) -> None:
    fake.rows = [make_row(n) for n in range(3)]
    fake.add(make_view("j1", JobState.RUNNING))
    job = connect().job("j1")
    fake.add(make_view("j1", JobState.SUCCEEDED, digest="d" * 32))
    view = job.wait()
    assert isinstance(view, JobView)
    assert (view.state, view.digest, job.state) == (JobState.SUCCEEDED, "d" * 32, JobState.SUCCEEDED)
    before = len(fake.log)
    assert job.wait() == view
    assert len(fake.log) == before, "an ended job was asked for again"


def test_a_failed_job_raises_with_its_traceback(connect: Connect, fake: FakeService) -> None:
    fake.add(make_view("j1", JobState.FAILED, reason="ValueError: boom", traceback="Traceback ...\nValueError: boom"))
    job = connect().job("j1")
    with pytest.raises(JobFailedError, match=r"(?s)job j1 failed: ValueError: boom\n\nTraceback"):
        job.wait()
    assert job.wait(raise_on_failure=False).state is JobState.FAILED


def test_a_stream_that_breaks_anywhere_loses_and_doubles_nothing(connect: Connect, fake: FakeService) -> None:
    fake.events = [make_event(n) for n in range(1, 5)]
    fake.rows = [make_row(n) for n in range(6)]
    fake.add(make_view("j1", JobState.SUCCEEDED))
    fake.faults = [("/stream", fake.breaking_after(n)) for n in (0, 1, 3, 7)]
    fake.faults.insert(3, ("/stream", refuse))
    fake.faults.insert(2, ("/stream", lambda request: problem(503, "restarting")))
    updates = connect().job("j1").follow()
    assert fake.faults == []
    assert [u.seq for u in updates if hasattr(u, "seq")] == [1, 2, 3, 4]
    assert [u.result.step for u in updates if hasattr(u, "result")] == list(range(6))


@pytest.mark.parametrize("status", [404, 405, 500])
def test_a_service_that_cannot_stream_is_polled(connect: Connect, fake: FakeService, status: int) -> None:
    fake.rows = [make_row(n) for n in range(3)]
    fake.add(make_view("j1", JobState.RUNNING))
    job = connect().job("j1")

    def refuse_to_stream(request: httpx.Request) -> httpx.Response:
        fake.add(make_view("j1", JobState.SUCCEEDED))
        return problem(status, "no streams here")

    fake.faults = [("/stream", refuse_to_stream)]
    if status == 404:
        with pytest.raises(NotFoundError):
            job.rows(follow=True)
        return
    assert [row.result.step for row in job.rows(follow=True)] == [0, 1, 2]
    assert [path for _, path in fake.log].count("/v1/jobs/j1/stream") == 1


def test_a_wrong_token_ends_following(connect: Connect, fake: FakeService) -> None:
    fake.add(make_view("j1"))
    job = connect().job("j1")
    fake.faults = [("/stream", lambda request: problem(401, "not you"))]
    with pytest.raises(UnauthorizedError, match="not you"):
        job.wait()


def test_waiting_has_an_end(connect: Connect, fake: FakeService) -> None:
    fake.add(make_view("j1"))
    job = connect().job("j1")
    with pytest.raises(TimeoutError, match=r"job j1 has not ended within 0\.3 s"):
        job.wait(timeout=0.3)
    assert job.state is JobState.RUNNING


def test_events_and_ledger_so_far(connect: Connect, fake: FakeService) -> None:
    fake.events = [make_event(n) for n in range(1, 4)]
    fake.rows = [make_row(n) for n in range(4)]
    fake.add(make_view("j1"))
    job = connect().job("j1")
    assert job.events() == fake.events
    assert job.ledger() == fake.rows
    assert job.rows() == fake.rows


# ---- acting


def test_resize_and_cancel(connect: Connect, fake: FakeService) -> None:
    fake.add(make_view("j1"))
    job = connect().job("j1")
    assert job.resize(3).view.wanted_trainers == 3
    with pytest.raises(SpecError, match="this resize is not possible"):
        job.resize(0)
    fake.faults = [("/resize", lambda request: problem(422, "x", (("body.trainers", "9 is not between 1 and 8"),)))]
    with pytest.raises(SpecError, match="trainers: 9 is not between 1 and 8"):
        job.resize(9)
    assert job.cancel(wait=True).state is JobState.CANCELLED
    assert fake.jobs["j1"].state is JobState.CANCELLED


# ---- reaching the service


def test_nobody_answers(connect: Connect, fake: FakeService) -> None:
    fake.faults = [("/health", refuse)] * 5
    with pytest.raises(
        ServiceUnavailableError, match=rf"no control plane answers at {URL}: start one with `surefoot up`"
    ):
        connect().health()
    assert fake.log.count(("GET", "/v1/health")) == 5


def test_a_short_absence_goes_unnoticed(connect: Connect, fake: FakeService) -> None:
    fake.faults = [("/health", refuse), ("/health", lambda request: problem(503, "starting"))]
    assert connect().health().version == "1"


def test_what_is_a_real_answer_is_not_retried(connect: Connect, fake: FakeService) -> None:
    with pytest.raises(NotFoundError):
        connect().job("nope")
    assert fake.log == [("GET", "/v1/jobs/nope"), ("GET", "/v1/jobs")]


def test_the_token_is_sent(connect: Connect, fake: FakeService) -> None:
    connect().health()
    assert fake.requests[0].headers["authorization"] == "Bearer token"


# ---- the surface


def test_both_clients_have_the_same_methods() -> None:
    def surface(kind: type) -> dict[str, list[str]]:
        methods = {name: member for name, member in vars(kind).items() if not name.startswith("_") and callable(member)}
        return {name: list(inspect.signature(member).parameters) for name, member in methods.items()}

    twin = surface(AsyncClient)
    twin["close"] = twin.pop("aclose")
    assert surface(Client) == twin
    assert surface(Job) == surface(AsyncJob)


def test_one_client_serves_several_threads(fake: FakeService) -> None:
    fake.add(make_view("j1"))
    found = []
    with Client(URL, transport=fake.transport) as client:
        threads = [threading.Thread(target=lambda: found.append(client.job("j1").id)) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
    assert found == ["j1"] * 8


def test_leaving_an_async_follow_early_closes_the_stream(fake: FakeService) -> None:
    fake.add(make_view("j1"))
    fake.rows = [make_row(n) for n in range(5)]

    async def first() -> object:
        async with AsyncClient(URL, transport=fake.transport) as client:
            job = await client.job("j1")
            updates = job.follow()
            found = await anext(aiter(updates))
            await updates.aclose()  # type: ignore[attr-defined]
            return found

    assert isinstance(asyncio.run(first()), JobView)


def test_the_surface_of_the_package() -> None:
    assert surefoot.__all__ == [
        "AsyncClient",
        "AsyncJob",
        "Client",
        "Job",
        "JobSpec",
        "JobState",
        "LocalResult",
        "Resources",
        "Run",
        "Step",
        "SurefootError",
        "TrainFunction",
        "run_local",
    ]
    assert all(getattr(surefoot, name) is not None for name in surefoot.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        surefoot.nothing  # noqa: B018


@pytest.mark.process
def test_trainers_import_no_http_client() -> None:
    import subprocess

    script = (
        "import sys, surefoot; print(sorted({'httpx', 'typer', 'rich', 'tenacity', 'torch', 'ray'} & set(sys.modules)))"
    )
    told = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert told.strip() == "[]"
