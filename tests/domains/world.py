"""Whole attempts on a Ray of the tests' own, seen from outside: by what the control plane was told and by processes.

The test is no driver of the cluster, so that the head may die under it; what must be asked of Ray asks a process of its own.
"""

from __future__ import annotations

import functools
import io
import itertools
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ParamSpec

import psutil

from surefoot.events import Event, EventKind, LedgerRow
from surefoot.spec import JobSpec

from ..actors.control_plane import CODE, ControlPlane, serve
from ..ray_head import Head, Node

JOBS = Path(__file__).parents[1] / "actors" / "jobs"
PACKAGE = "gcs://surefoot_domains.zip"
P = ParamSpec("P")
# of an attempt's name: a test may make another
_number = itertools.count()
LIVENESS_S = 270.0
STEPS = 10
SPEC = {"entrypoint": "small:train", "package": "0" * 64, "batch_size": 32, "seed": 7}

_UPLOAD = """
import sys, ray
from ray._private.runtime_env.packaging import upload_package_to_gcs
from ray.experimental.internal_kv import _pin_runtime_env_uri
ray.init(address=sys.argv[1], log_to_driver=False)
upload_package_to_gcs(sys.argv[2], sys.stdin.buffer.read())
_pin_runtime_env_uri(sys.argv[2], expiration_s=3600)  # for all attempts: Ray deletes it with the last actor that has it
"""


class StarvedError(Exception):
    """A trainer was taken for lost before the test did anything: this machine did not let its watchdog run for a second."""


def again_if_starved(test: Callable[P, None]) -> Callable[P, None]:
    """Have another attempt, and one more, where what a test is about could not begin."""

    @functools.wraps(test)
    def tried(*args: P.args, **kwargs: P.kwargs) -> None:
        for _ in range(2):
            with suppress(StarvedError):
                return test(*args, **kwargs)
        return test(*args, **kwargs)

    return tried


def upload_package(head: Head) -> None:
    """Put the jobs into Ray's object store, as the control plane does by REST."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for path in JOBS.glob("*.py"):
            archive.write(path, path.name)
    command = [sys.executable, "-c", _UPLOAD, head.address, PACKAGE]
    subprocess.run(command, env=head.env, input=buffer.getvalue(), check=True, capture_output=True, timeout=LIVENESS_S)


def ask_ray(head: Head, code: str) -> str:
    """What a driver of the cluster prints that runs this code."""
    code = f"import ray; ray.init(address={head.address!r}, log_to_driver=False)\n{code}"
    command = [sys.executable, "-c", code]
    return subprocess.run(command, env=head.env, check=True, capture_output=True, text=True, timeout=LIVENESS_S).stdout


def until(what: Callable[[], Any]) -> Any:
    """Return the first true answer: processes tell no event."""
    deadline = time.monotonic() + LIVENESS_S
    while not (answer := what()):
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.02)
    return answer


def alive(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def titled(title: str, nodes: Sequence[Node]) -> list[int]:
    """Pids of actors whose process title has this in it, of these nodes."""
    found = []
    for process in [process for node in nodes for process in node.family()]:
        try:
            if f"ray::{title}" in " ".join(process.cmdline()[:1]):
                found.append(process.pid)
        except (psutil.NoSuchProcess, psutil.ZombieProcess):
            continue
    return found


class Gates:
    """Steps at which training waits until the test opens their gate."""

    def __init__(self, folder: Path, *steps: int) -> None:
        self._paths = {step: folder / f"gate-{step}" for step in steps}

    @property
    def config(self) -> list[Any]:
        return [[step, str(path)] for step, path in self._paths.items()]

    def open(self, step: int) -> None:
        self._paths[step].touch()


@dataclass(kw_only=True)
class Attempt:
    """An attempt that runs, and what is known of it."""

    head: Head
    control: ControlPlane
    name: str
    others: list[Node] = field(default_factory=list)

    @property
    def nodes(self) -> list[Node]:
        return [self.head, *self.others]

    def start_launcher(self) -> subprocess.Popen[str]:
        env = {
            **self.head.env,
            "RAY_ADDRESS": self.head.address,
            "SUREFOOT_URL": self.control.url,
            "SUREFOOT_ATTEMPT": self.name,
            "SUREFOOT_CLAIM": CODE,
        }
        command = [sys.executable, "-P", "-m", "surefoot_actors.launch.launcher"]
        return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def launch(self) -> None:
        with self.start_launcher() as launcher:
            _, said = launcher.communicate(timeout=LIVENESS_S)
        assert launcher.returncode == 0, said

    def begin(self, step: int) -> None:
        """Launch it, and wait until this step is done by the trainers that it began with."""
        self.launch()
        self.control.wait_for_step(step, LIVENESS_S)
        self.check_not_starved()

    def check_not_starved(self) -> None:
        """Raise where a trainer was lost, but not with its node."""
        lost = [str(event.data["reason"]) for event in self.lost()]
        if starved := [reason for reason in lost if not reason.startswith("its node died")]:
            raise StarvedError(starved)

    def supervisors(self) -> list[int]:
        return titled("SupervisorActor", self.nodes)

    def supervisor(self) -> int:
        return int(until(self.supervisors)[0])

    def trainers(self) -> dict[str, int]:
        """Pids of all that ever were ready, by name."""
        ready = self.control.of(EventKind.TRAINER_READY)
        return {str(event.data["trainer"]): int(str(event.data["pid"])) for event in ready}

    def on(self, node: Node) -> list[str]:
        """The trainers that run on a node."""
        pids = {process.pid for process in node.family()}
        return [trainer for trainer, pid in self.trainers().items() if pid in pids]

    def succeed(self) -> None:
        """Wait for the end, and until no process is left."""
        self.control.wait_for_state("succeeded", LIVENESS_S)
        until(lambda: not self.supervisors() and not titled("TrainerActor", self.nodes))
        assert not [pid for pid in self.trainers().values() if alive(pid)]

    def rows(self) -> list[LedgerRow]:
        return [self.control.ledger[step] for step in sorted(self.control.ledger)]

    def assert_ledger(self, undisturbed: list[bytes]) -> None:
        """Row by row the same, and every event there once."""
        assert [row.result.canonical() for row in self.rows()] == undisturbed
        for source in {event.source for event in self.control.events.values()}:
            numbers = sorted(n for s, n in self.control.events if s == source)
            assert numbers == list(range(1, len(numbers) + 1)), "an event was lost"

    def lost(self) -> list[Event]:
        return self.control.of(EventKind.TRAINER_LOST)


@contextmanager
def attempt(head: Head, name: str, *others: Node, **fields: Any) -> Iterator[Attempt]:
    """Serve a control plane for an attempt, not launched yet; whatever is left of it afterwards is killed."""
    fields = {**SPEC, **fields, "config": {"steps": STEPS, **fields.get("config", {})}}
    # all begin together, however slow the machine is
    fields["min_trainers"] = fields.get("trainers", 1)
    with serve(ControlPlane(JobSpec(**fields), PACKAGE)) as control:
        made = Attempt(head=head, control=control, name=f"{name}-{next(_number)}", others=list(others))
        try:
            yield made
        finally:
            _clean_up(made)


def _clean_up(attempt: Attempt) -> None:
    if attempt.head.process.poll() is None and (attempt.supervisors() or titled("TrainerActor", attempt.nodes)):
        env = {**attempt.head.env, "RAY_ADDRESS": attempt.head.address, "SUREFOOT_ATTEMPT": attempt.name}
        command = [sys.executable, "-P", "-m", "surefoot_actors.launch.cleanup"]
        subprocess.run(command, env=env, capture_output=True, timeout=LIVENESS_S, check=False)


def computed(path: Path) -> list[tuple[str, str, str]]:
    """Every sub-task that was computed: (step, first sample, pid)."""
    return [tuple(line.split()) for line in path.read_text().splitlines()] if path.exists() else []  # type: ignore[misc]


def computed_twice(path: Path) -> int:
    keys = [line[:2] for line in computed(path)]
    return len(keys) - len(set(keys))
