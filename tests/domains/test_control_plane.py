"""The control plane dies, or its database does: training goes on without, and neither a row nor an event is missing afterwards."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import httpx
import pytest

from surefoot.client import Client, Job
from surefoot.events import EventKind
from surefoot.spec import JobState

from ..ray_head import Head, free_ports, ray_head
from ..service.postgres import Postgres, postgres_server
from .world import JOBS, LIVENESS_S, STEPS, Gates, computed, titled, until

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.filterwarnings("default")]


class ControlPlane:
    """A real one, in a process that runs jobs on a head; its port and its store stay the same over its restarts."""

    def __init__(self, folder: Path, database_url: str, head: Head) -> None:
        [self._port] = free_ports(1)
        self.url = f"http://127.0.0.1:{self._port}"
        self._data, self._log = folder / "data", folder / "control-plane.log"
        settings = {
            "DATA": str(self._data),
            "PORT": str(self._port),
            "DATABASE_URL": database_url,
            "RAY_ADDRESS": head.dashboard,
            "RAY_AUTH_TOKEN": head.env["RAY_AUTH_TOKEN"],
            "RAY_PYTHON": sys.executable,
        }
        self._env = {**os.environ, **{f"SUREFOOT_{name}": value for name, value in settings.items()}}
        self.start()

    def start(self) -> None:
        """Returns when it answers."""
        command = [sys.executable, "-m", "uvicorn", "--factory", "surefoot_service.rest.app:create_app"]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [*command, "--port", str(self._port)], env=self._env, stdout=log, stderr=log
            )
        until(self._answers)

    def kill(self) -> None:
        """SIGKILL it."""
        self._process.kill()
        self._process.wait()

    def said(self) -> str:
        """All that it logged: a line a request, with the answer's status."""
        return self._log.read_text()

    def get(self, path: str) -> httpx.Response:
        """One answer, whatever it is; the SDK would ask again."""
        return httpx.get(self.url + path, headers={"Authorization": f"Bearer {self._token}"}, trust_env=False)

    def client(self) -> Client:
        return Client(self.url, self._token)

    @property
    def _token(self) -> str:
        return (self._data / "token").read_text().strip()

    def _answers(self) -> bool:
        assert self._process.poll() is None, self.said()
        try:
            return httpx.get(f"{self.url}/v1/health", trust_env=False).is_success
        except httpx.TransportError:
            return False


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    with ray_head(num_cpus=2, dashboard=True) as head:
        yield head


@pytest.fixture(scope="module")
def postgres() -> Iterator[Postgres]:
    with postgres_server() as server:
        yield server


@pytest.fixture
def plane(head: Head, postgres: Postgres, tmp_path: Path) -> Iterator[ControlPlane]:
    made = ControlPlane(tmp_path, postgres.make_database(f"test-{secrets.token_hex(6)}"), head)
    yield made
    made.kill()


@contextmanager
def killed(plane: ControlPlane) -> Iterator[None]:
    """SIGKILL the control plane, and start it again at the end."""
    plane.kill()
    yield
    with pytest.raises(httpx.ConnectError):
        plane.get("/v1/health")
    plane.start()


@contextmanager
def stopped(postgres: Postgres, plane: ControlPlane) -> Iterator[None]:
    """Have the database crash, and start it again at the end."""
    postgres.stop()
    try:
        yield
        # the supervisor's rows and events, and a user's question
        until(lambda: '/uplink HTTP/1.1" 503' in plane.said())
        assert plane.get("/v1/jobs").status_code == 503
    finally:
        postgres.start()


def test_training_goes_on_without_the_control_plane(
    plane: ControlPlane, head: Head, undisturbed: list[bytes], tmp_path: Path
) -> None:
    with plane.client() as client:
        _lose_a_trainer_during(killed(plane), client, tmp_path)
        _assert_nothing_is_missing(client.job("last"), head, undisturbed)


def test_training_goes_on_without_the_database(
    plane: ControlPlane, postgres: Postgres, head: Head, undisturbed: list[bytes], tmp_path: Path
) -> None:
    with plane.client() as client:
        _lose_a_trainer_during(stopped(postgres, plane), client, tmp_path)
        _assert_nothing_is_missing(client.job("last"), head, undisturbed)


def _lose_a_trainer_during(outage: AbstractContextManager[None], client: Client, folder: Path) -> None:
    """Run a job to its end: from step 3 to step 7 during the outage, and a trainer is killed in step 5."""
    gates, done = Gates(folder, 3, 5, 7), folder / "computed"
    config = {"steps": STEPS, "gates": gates.config, "computed": str(done)}
    job = client.submit("small:train", folder=JOBS, config=config, batch_size=32, seed=7, trainers=2, min_trainers=2)
    until(lambda: job.refresh().view.steps_done == 3)
    pids = {str(e.data["trainer"]): str(e.data["pid"]) for e in job.events() if e.kind is EventKind.TRAINER_READY}
    assert sorted(pids) == ["t0", "t1"]
    with outage:
        began = time.time()
        gates.open(3)
        until(lambda: _came_to(5, done) == set(pids.values()))
        os.kill(int(pids["t0"]), signal.SIGKILL)
        gates.open(5)
        until(lambda: pids["t1"] in _came_to(7, done))
        ended = time.time()
    until(lambda: job.refresh().view.steps_done == 7)
    assert [began < row.circumstances.at < ended for row in job.ledger()] == [False] * 3 + [True] * 4
    [lost] = [event for event in job.events() if event.kind is EventKind.TRAINER_LOST]
    assert lost.data["trainer"] == "t0"
    assert began < lost.at.timestamp() < ended
    gates.open(7)
    job.wait(LIVENESS_S)


def _came_to(step: int, done: Path) -> set[str]:
    """The pids of those that have computed a sub-task of this step."""
    return {pid for at, _, pid in computed(done) if at == str(step)}


def _assert_nothing_is_missing(job: Job, head: Head, undisturbed: list[bytes]) -> None:
    """One attempt, one supervisor, each row and event once, and no process left."""
    assert (job.state, job.view.attempts) == (JobState.SUCCEEDED, 1)
    assert [row.result.canonical() for row in job.ledger()] == undisturbed
    events = list(job.events())
    sources = {event.source for event in events}
    assert len(sources - {"service"}) == 1
    for source in sources:
        numbers = [event.n for event in events if event.source == source]
        assert sorted(numbers) == list(range(1, len(numbers) + 1)), "an event was lost"
    assert [event.data["state"] for event in events if event.kind is EventKind.STATE][-1] == "succeeded"
    until(lambda: not titled("SupervisorActor", [head]) and not titled("TrainerActor", [head]))
