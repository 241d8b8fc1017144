"""A Ray head, a control plane that can be killed beside it, and a job that is followed: as a user has them, but in reach of faults.

The heads, nodes and networks are those of the tests.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from kills import History
from measure import HERE, free_port

from surefoot.client import Client, Job
from surefoot.events import EventKind

sys.path += [str(HERE.parent), str(HERE.parent / "examples")]

from tests.kernel import Network, network
from tests.ray_head import Head, Node, ray_head, raylet

__all__ = ["LIMIT_S", "Head", "Network", "Node", "Service", "Watched", "network", "raylet", "service"]

LIMIT_S = 120.0


class Service:
    """A control plane on a head, in a process of its own."""

    def __init__(self, folder: Path, head: Head) -> None:
        self._folder, self._head, self._port = folder, head, free_port()
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        data = self._folder / "data"
        (data / "service.json").unlink(missing_ok=True)
        settings = {"DATA": str(data), "RAY_PYTHON": sys.executable, "RAY_AUTH_TOKEN": self._head.env["RAY_AUTH_TOKEN"]}
        env = {**os.environ, **{f"SUREFOOT_{name}": value for name, value in settings.items()}}
        options = ["--port", str(self._port), "--ray-address", self._head.dashboard]
        command = [sys.executable, "-c", "from surefoot.cli import main; main()", "up", *options]
        with (self._folder / "up.log").open("ab") as log:
            self._process = subprocess.Popen(command, env=env, stdout=log, stderr=log, start_new_session=True)

    def kill(self) -> None:
        """SIGKILL it."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def kill_supervisor(self) -> None:
        """SIGKILL the supervisor of the only job."""
        [process] = [p for p in self._head.family() if "ray::SupervisorActor" in " ".join(p.cmdline()[:1])]
        process.kill()

    def client(self) -> Client:
        """A client, as soon as the control plane answers."""
        from demo import wait_until_announced

        assert self._process is not None
        wait_until_announced(self._folder / "data" / "service.json", self._process)
        os.environ["SUREFOOT_DATA"] = str(self._folder / "data")
        return Client()


@contextmanager
def service(num_cpus: int = 4) -> Iterator[tuple[Service, Head, Path]]:
    """Run both for the duration of the block, under a folder that is gone afterwards."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="sf-rig-")))
        head = stack.enter_context(ray_head(num_cpus, dashboard=True))
        made = Service(folder, head)
        stack.callback(made.kill)
        made.start()
        yield made, head, folder


class Watched:
    """A running job, followed."""

    def __init__(self, job: Job, num_trainers: int, trace: Path) -> None:
        self.told = History()
        self._job, self._num_trainers, self._trace = job, num_trainers, trace
        self._updates = job.follow(20 * LIMIT_S)

    def until(self, what: Callable[[], Any]) -> Any:
        """Take what is told until this is true; return it. Raises TimeoutError."""
        deadline = time.monotonic() + LIMIT_S
        while not (found := what()):
            if time.monotonic() > deadline:
                raise TimeoutError(f"it did not come within {LIMIT_S:.0f} s; the job is {self._job.refresh().state}")
            self.told.take(next(self._updates))
        return found

    @property
    def generation(self) -> int:
        """The newest; 0: none."""
        return int(self._newest()["generation"])

    def _newest(self) -> dict[str, Any]:
        found = [event.data for event in self.told.events if event.kind is EventKind.GENERATION]
        return dict(found[-1]) if found else {"generation": 0, "trainers": []}

    def pid(self, trainer: str) -> int:
        ready = (event.data for event in self.told.events if event.kind is EventKind.TRAINER_READY)
        return next(int(str(data["pid"])) for data in ready if data["trainer"] == trainer)

    def calm(self, steps: int = 8) -> list[str]:
        """Wait until all trainers have made some steps together; return their names."""

        def is_calm() -> bool:
            made = sum(r.circumstances.generation == self.generation for r in self.told.ledger.values())
            return len(self._newest()["trainers"]) == self._num_trainers and made >= steps

        self.until(is_calm)
        return [str(name) for name in self._newest()["trainers"]]

    def first_row_after(self, generation: int) -> float | None:
        """When a later generation committed its first step."""
        rows = [r.circumstances for r in self.told.ledger.values() if r.circumstances.generation > generation]
        return min(c.at for c in rows) if rows else None

    def gaps(self, begin: float, end: float) -> list[float]:
        """The seconds from one commit to the next, of the steps that were committed in that time."""
        at = {step: row.circumstances.at for step, row in self.told.ledger.items()}
        return [at[step] - at[step - 1] for step in at if step - 1 in at and begin <= at[step] <= end]

    def at_of(self, kind: EventKind, since: float, trainer: str | None = None) -> float:
        """When such an event was told first after this time, of this trainer if one is given."""
        return min(
            event.at.timestamp()
            for event in self.told.events
            if event.kind is kind
            and event.at.timestamp() >= since
            and (trainer is None or event.data["trainer"] == trainer)
        )

    def in_user_code(self, pid: int, begin: float, end: float) -> float:
        """What this process spent in the train function meanwhile."""
        spans = (map(float, line.split()) for line in (self._trace / f"{pid}.txt").read_text().splitlines())
        return sum(max(0.0, min(until, end) - max(since, begin)) for since, until in spans)
