"""SDK and CLI against the real control plane on loopback; only the cluster is missing, whose part the test plays."""

from __future__ import annotations

import asyncio
import hashlib
import json
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from tests.api.conftest import make_row
from typer.testing import CliRunner

from surefoot import AsyncClient, Client
from surefoot.cli.app import app as cli_app
from surefoot.errors import ConflictError, JobFailedError, NotFoundError, SpecError, UnauthorizedError
from surefoot.events import Event, EventKind, SentBatch
from surefoot.output import KeptFile, OutputManifest, dump_output
from surefoot.package import pack
from surefoot.spec import JobState
from surefoot.views import JobView

uvicorn_app = pytest.importorskip("surefoot_service.rest.app")
from sqlalchemy.orm import Session  # noqa: E402

from surefoot_service.data_folder import announced, locked  # noqa: E402
from surefoot_service.parts import Service  # noqa: E402
from surefoot_service.settings import Settings  # noqa: E402
from surefoot_service.store import attempts  # noqa: E402


@dataclass
class Running:
    url: str
    data: Path
    service: Service

    def attempt(self, job: str) -> Attempt:
        """Play the launcher: make the job's attempt, and claim it."""

        def make(session: Session) -> str:
            now = datetime.now(UTC)
            row = attempts.make(session, job, keys=self.service.keys, session_name="s", reason="", now=now)
            assert row is not None
            return row.id

        made = asyncio.run(self.service.database.write(make))
        code = self.service.keys.claim_code(made)
        answer = httpx.post(f"{self.url}/v1/attempts/{made}/claim", json={"kind": "claim", "code": code})
        assert answer.status_code == 200, answer.text
        return Attempt(f"{self.url}/v1/attempts/{made}/uplink", answer.json()["token"])


@dataclass
class Attempt:
    """Plays the supervisor."""

    uplink: str
    token: str
    told: int = 0

    def tell(self, *rows: int, **kinds: dict[str, Any]) -> None:
        events = []
        for name, data in kinds.items():
            self.told += 1
            events.append(Event(source="sup", n=self.told, at=datetime.now(UTC), kind=EventKind(name), data=data))
        batch = SentBatch(events=tuple(events), rows=tuple(make_row(step) for step in rows))
        headers = {"authorization": f"Bearer {self.token}", "content-type": "application/json"}
        answer = httpx.post(self.uplink, content=batch.model_dump_json(), headers=headers)
        assert answer.status_code == 200, answer.text


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.ready = threading.Event()

    async def startup(self, sockets: Any = None) -> None:
        await super().startup(sockets)
        self.ready.set()


@contextmanager
def serving(data: Path, port: int = 0) -> Iterator[Running]:
    app = uvicorn_app.create_app(Settings(data=data, max_package_bytes=50_000))
    server = _Server(uvicorn.Config(app, port=port, log_config=None, lifespan="on", timeout_graceful_shutdown=5))
    thread = threading.Thread(target=server.run)
    thread.start()
    assert server.ready.wait(30)
    url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    try:
        with locked(data), announced(data, url):
            yield Running(url=url, data=data, service=app.state.service)
    finally:
        app.state.service.wakeups.close()
        server.should_exit = True
        thread.join(30)
    assert not thread.is_alive()


@pytest.fixture
def running(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Running]:
    monkeypatch.setenv("SUREFOOT_DATA", str(tmp_path / "data"))
    with serving(tmp_path / "data") as here:
        yield here


def finish(attempt: Attempt) -> None:
    attempt.tell(3, 4, finished={"steps": 5, "digest": "d" * 32}, state={"state": "succeeded", "reason": ""})


def begin(attempt: Attempt) -> None:
    generation = {"generation": 1, "trainers": 2, "step": 0, "num_steps": 5}
    attempt.tell(0, 1, 2, state={"state": "running", "reason": ""}, generation=generation)


def test_a_job_from_submission_to_its_end(running: Running, code: Path) -> None:
    with Client() as client:
        assert client.where.token, "the token of the data folder"
        job = client.submit("train:train", folder=code, batch_size=64, trainers=2)
        assert job.refresh().state is JobState.QUEUED
        again = client.submit("train:train", folder=code, batch_size=64)
        assert (again.spec.package, again.id != job.id) == (job.spec.package, True)
        attempt = running.attempt(job.id)
        begin(attempt)
        updates = job.follow(timeout=60)
        seen = []
        for update in updates:
            seen.append(update)
            if getattr(update, "result", None) and update.result.step == 2:  # type: ignore[union-attr]
                break
        updates.close()  # type: ignore[attr-defined]
        assert [row.result.step for row in job.ledger()] == [0, 1, 2]
        finish(attempt)
        view = job.wait(timeout=60)
        assert (view.state, view.digest, view.steps_done) == (JobState.SUCCEEDED, "d" * 32, 5)
        assert [event.kind for event in job.events() if event.source == "sup"][-1] is EventKind.STATE
        assert [row.result for row in job.ledger()] == [make_row(step).result for step in range(5)]
        assert [j.id for j in client.jobs()] == [again.id, job.id]
        with pytest.raises(ConflictError):
            job.resize(3)


async def test_async_following_live(running: Running, code: Path) -> None:
    async with AsyncClient() as client:
        job = await client.submit("train:train", folder=code, batch_size=64)
        attempt = await asyncio.to_thread(running.attempt, job.id)
        await asyncio.to_thread(begin, attempt)
        steps = []
        async for row in job.rows(follow=True):
            steps.append(row.result.step)
            if row.result.step == 2:
                await asyncio.to_thread(finish, attempt)
        assert steps == [0, 1, 2, 3, 4]
        assert (await job.wait(timeout=60)).state is JobState.SUCCEEDED


def test_a_failing_job(running: Running, code: Path) -> None:
    with Client() as client:
        job = client.submit("train:train", folder=code, batch_size=64)
        attempt = running.attempt(job.id)
        failed = {"reason": "ValueError: boom", "traceback": "Traceback\nValueError: boom", "trainer": "t0"}
        attempt.tell(state={"state": "running", "reason": ""}, failed=failed)
        with pytest.raises(JobFailedError, match=r"(?s)boom.*Traceback"):
            job.wait(timeout=60)


def test_waiting_ends_in_time_though_the_stream_is_quiet(running: Running, code: Path) -> None:
    with Client() as client:
        job = client.submit("train:train", folder=code, batch_size=64)
        begun = time.monotonic()
        with pytest.raises(TimeoutError):
            job.wait(timeout=1.5)
        assert time.monotonic() - begun < 10, "waited for the stream's next word, not for the deadline"
        assert job.cancel(wait=True).state is JobState.CANCELLED


def test_what_the_service_refuses(running: Running, code: Path) -> None:
    with Client() as client:
        job = client.submit("train:train", folder=code, batch_size=64, max_trainers=4)
        with pytest.raises(SpecError, match="9 is not between min_trainers 1 and max_trainers 4"):
            job.resize(9)
        with pytest.raises(NotFoundError):
            client.job("zzzz")
        (code / "big.bin").write_bytes(b"x" * 60_000)
        with pytest.raises(ValueError, match=r"(?i)bytes|large|limit"):
            client.submit("train:train", folder=code, batch_size=64)
    with Client(token="wrong") as stranger, pytest.raises(UnauthorizedError, match="token"):
        stranger.jobs()


def test_the_command_line(running: Running, code: Path) -> None:
    def run(*arguments: str) -> Any:
        return CliRunner().invoke(cli_app, list(arguments))

    job = run("submit", "train:train", "-f", str(code), "-b", "64", "--detach").stdout.strip()
    attempt = running.attempt(job)
    begin(attempt)
    assert run("resize", job[:4], "3").stdout == f"job {job}: from 1 to 3 trainers\n"
    finish(attempt)
    watched = run("watch", "last")
    assert watched.exit_code == 0, watched.output
    assert "generation 1: 2 trainers from step 0" in watched.stdout
    assert f"final state {'d' * 32}" in watched.stdout
    assert run("diff", job, "last").stdout == "identical (5 steps)\n"
    assert job in run("ls").stdout
    assert run("show", "last").exit_code == 0
    view = JobView.model_validate_json(run("show", "last", "--json").stdout)
    assert view.state is JobState.SUCCEEDED


def test_a_job_paused_and_resumed(running: Running, code: Path) -> None:
    with Client() as client:
        job = client.submit(
            "train:train", folder=code, batch_size=64, trainers=2, spares=1, checkpoint={"every_steps": 2}
        )
        assert (job.spec.spares, job.spec.checkpoint.every_steps) == (1, 2)
        assert job.pause().state is JobState.PAUSED, "a queued job is paused at once"
        assert job.resume().state is JobState.QUEUED
        attempt = running.attempt(job.id)
        begin(attempt)
        assert job.pause().state is JobState.PAUSING
        place = running.data / "checkpoints" / job.id
        attempt.tell(
            checkpoint={
                "step": 3,
                "url": f"{place}/step-3",
                "bytes": 10,
                "seconds": 0.5,
                "stall_s": 0.01,
                "reason": "paused",
            }
        )
        attempt.tell(state={"state": "paused", "reason": "saved"})
        assert job.pause(wait=True).state is JobState.PAUSED
        [made] = job.checkpoints()
        assert (made.step, made.url, made.reason) == (3, f"{place}/step-3", "paused")
        assert (job.view.checkpoint, job.view.checkpoint_step) == (f"{place}/step-3", 3)


def test_faults_and_checkpoints_are_for_jobs_that_train(running: Running, code: Path) -> None:
    with Client() as client:
        job = client.submit("train:train", folder=code, batch_size=64, trainers=2)
        with pytest.raises(ConflictError, match="nothing to break"):
            job.inject_fault("trainer")
        with pytest.raises(ConflictError, match="nothing to save"):
            job.checkpoint()
        begin(running.attempt(job.id))
        assert job.inject_fault("freeze").state is JobState.RUNNING
        assert job.checkpoint().state is JobState.RUNNING


def test_the_final_model_is_downloaded_whole_or_not_at_all(running: Running, code: Path, tmp_path: Path) -> None:
    into = tmp_path / "mine.safetensors"
    with Client() as client:
        job = client.submit("train:train", folder=code, batch_size=64, trainers=2)
        with pytest.raises(NotFoundError, match="no model yet"):
            job.download_model(into)
        assert not into.exists()
        attempt = running.attempt(job.id)
        begin(attempt)
        place = running.data / "checkpoints" / job.id
        (place / "model").mkdir(parents=True)
        (place / "model" / "model.safetensors").write_bytes(b"tensors" * 100_000)
        attempt.tell(checkpoint={"step": 5, "url": str(place / "step-5"), "model": str(place / "model")})
        finish(attempt)
        assert job.download_model(into).read_bytes() == b"tensors" * 100_000

    async def again() -> bytes:
        async with AsyncClient() as client:
            return (await (await client.job(job.id)).download_model(into)).read_bytes()

    assert asyncio.run(again()) == b"tensors" * 100_000
    result = CliRunner().invoke(cli_app, ["model", job.id, "-o", str(tmp_path / "by-cli.safetensors")])
    assert result.exit_code == 0, result.output
    assert "700 kB" in result.output


def keep(place: Path, **files: bytes) -> None:
    """Play the trainer that is elected: have these files kept, of a step."""
    for name in ("manifests", "objects"):
        (place / "files" / name).mkdir(parents=True)
    kept = []
    for path, data in files.items():
        name = hashlib.md5(data).hexdigest()
        (place / "files" / "objects" / name).write_bytes(data)
        pieces = ((name, 0, len(data)),)
        kept.append(KeptFile(path=path.replace("_", "/"), bytes=len(data), modified_ns=10**18, pieces=pieces))
    manifest = OutputManifest(step=3, at=1e9, files=tuple(kept), left_out=("'link': it is a link",))
    name, body = dump_output(manifest, seq=1, at=3, writer="a1g1t0")
    (place / "files" / "manifests" / name).write_bytes(body)


def test_files_are_fetched_while_the_job_keeps_others(
    running: Running, code: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A list of files lasts as long as the few synchronisations after it: a job that keeps files each step has new ones in a second."""
    with Client() as client:
        job = client.submit("train:train", folder=code, batch_size=64, trainers=2)
        begin(running.attempt(job.id))
        place = running.data / "checkpoints" / job.id
        keep(place, a=b"1", b=b"2", c=b"3")
        download, ask = Client._download, []

        def keeping(self: Client, path: str, params: dict[str, str], to: Path, size: int | None = None) -> Path:
            ask.append(params["path"])
            if len(ask) == 2:
                shutil.rmtree(place / "files")
                keep(place, a=b"1", b=b"other", d=b"4")
            return download(self, path, params, to, size)

        monkeypatch.setattr(Client, "_download", keeping)
        fetched = job.download_files(tmp_path / "to")
        assert {file.name: file.read_bytes() for file in fetched} == {"a": b"1", "b": b"other", "d": b"4"}
        assert ask == ["a", "b", "b", "d"]

        def refused(self: Client, path: str, params: dict[str, str], to: Path, size: int | None = None) -> Path:
            return download(self, path, {**params, "version": f"{9:09d}-{9:012d}-a1g1t0-{'0' * 16}.json"}, to, size)

        monkeypatch.setattr(Client, "_download", refused)
        with pytest.raises(ConflictError, match="list them again"):
            job.download_files(tmp_path / "to")


def test_files_of_any_names_are_fetched_beside_each_other(running: Running, code: Path, tmp_path: Path) -> None:
    """What is half fetched has a name that is nobody's, is no longer than a name may be, and follows no link that lies there."""
    with Client() as client:
        job = client.submit("train:train", folder=code, batch_size=64, trainers=2)
        begin(running.attempt(job.id))
        files = {".a.part": b"1", "a": b"2", "b": b"3", "n" * 255: b"4"}
        keep(running.data / "checkpoints" / job.id, **files)
        outside = tmp_path / "outside"
        outside.write_bytes(b"mine")
        (tmp_path / "to").mkdir()
        (tmp_path / "to" / ".b.part").symlink_to(outside)
        fetched = job.download_files(tmp_path / "to")
        assert {file.name: file.read_bytes() for file in fetched} == files
        assert outside.read_bytes() == b"mine"


def test_files_are_listed_and_fetched(
    running: Running, code: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Client() as client:
        job = client.submit("train:train", folder=code, batch_size=64, trainers=2)
        assert job.files().files == ()
        with pytest.raises(NotFoundError, match="no such file"):
            job.download_files(tmp_path / "to")
        begin(running.attempt(job.id))
        listed = CliRunner().invoke(cli_app, ["files", job.id])
        assert "no files yet" in listed.output
        keep(running.data / "checkpoints" / job.id, a=b"1" * 700_000, plots_b=b"2", plots_c=b"3")
        assert [f.path for f in job.files("plots/").files] == ["plots/b", "plots/c"]
        fetched = job.download_files(tmp_path / "to", path="plots/")
        assert [(f, f.read_bytes()) for f in fetched] == [
            (tmp_path / "to" / "plots" / "b", b"2"),
            (tmp_path / "to" / "plots" / "c", b"3"),
        ]

    async def again() -> list[bytes]:
        async with AsyncClient() as client:
            found = await client.job(job.id)
            assert (await found.files()).total_files == 3
            return [f.read_bytes() for f in await found.download_files(tmp_path / "again", path="a")]

    assert asyncio.run(again()) == [b"1" * 700_000]
    listed = CliRunner().invoke(cli_app, ["files", job.id])
    assert "plots/c" in listed.output
    assert "3 files, 700 kB, as step 3 began" in listed.output
    assert "not kept: 'link'" in listed.output
    told = json.loads(CliRunner().invoke(cli_app, ["files", job.id, "--json"]).output)
    assert [f["path"] for f in told["files"]] == ["a", "plots/b", "plots/c"]
    result = CliRunner().invoke(cli_app, ["files", job.id, "get", "--to", str(tmp_path / "by-cli")])
    assert "3 files, 700 kB" in result.output
    assert (tmp_path / "by-cli" / "plots" / "b").read_bytes() == b"2"
    monkeypatch.chdir(code)
    packaged = pack(code).files
    assert f"{job.id}-files: 3 files" in CliRunner().invoke(cli_app, ["files", job.id, "get"]).output
    assert (code / f"{job.id}-files" / "plots" / "b").read_bytes() == b"2"
    assert pack(code).files == packaged, "what was fetched is packaged as code"
    wrong = CliRunner().invoke(cli_app, ["files", job.id, "plots"])
    assert wrong.exit_code != 0
    assert "surefoot files JOB get plots" in wrong.output


def test_durable_commands_say_what_they_did(running: Running, code: Path) -> None:
    with Client() as client:
        job = client.submit("train:train", folder=code, batch_size=64, trainers=2)

    def said(*words: str) -> str:
        result = CliRunner().invoke(cli_app, [*words])
        assert result.exit_code == 0, result.output
        return result.output

    assert f"job {job.id} is paused" in said("pause", job.id)
    assert f"job {job.id} is queued" in said("resume", job.id)
    assert "no checkpoints yet" in said("checkpoints", job.id)
    refused = CliRunner().invoke(cli_app, ["chaos", job.id, "--kinds", "gremlin"])
    assert (refused.exit_code, "trainer, freeze, supervisor, node" in refused.output) == (2, True)


def test_a_job_again_with_changes(running: Running, code: Path) -> None:
    with Client() as client:
        first = client.submit("train:train", folder=code, batch_size=64, config={"lr": 0.1, "width": 8}, cpus=2)
        again = client.submit_from(first, config={"lr": 0.5}, gpus=1, checkpoint={"keep": 3})
        assert again.spec.config == {"lr": 0.5, "width": 8}
        assert (again.spec.resources.cpus, again.spec.resources.gpus, again.spec.checkpoint.keep) == (2, 1, 3)
        assert client.submit_from(again.id[:8]).spec == again.spec
        with pytest.raises(SpecError, match="trainers 99 is not between"):
            client.submit_from(first, trainers=99)
        with pytest.raises(TypeError, match="folder"):
            client.submit_from(first, folder=code)
    submit = ("submit", "--from", first.id, "--detach")
    told = CliRunner().invoke(cli_app, [*submit, "--set", "lr=0.7", "--trainers", "2", "--json"])
    spec = JobView.model_validate_json(told.stdout.splitlines()[-1]).spec
    assert (spec.config, spec.trainers, spec.batch_size) == ({"lr": 0.7, "width": 8}, 2, 64)
    assert CliRunner().invoke(cli_app, [*submit, "train:train"]).exit_code == 2
