"""Recovery by failure domain: what each fault costs a job that trains through it, on Ray, as a user runs it.

    python benchmarks/domains.py [--save] [--faults 10] [--peers FOLDER] [--peers-python PYTHON] [--no-peers]

Two trainers (every domain but the last: of one job) make steps of 8 sub-tasks that each sleep 25 ms. A trainer's loss is measured from the
fault to the first step that a later generation commits; the loss of the supervisor or of the control plane by the slowest step of
the seconds after it. The loss of every trainer is measured to the first new step after the newest checkpoint, and held against Ray
Train's full restart from the same sitting.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import psutil
from kills import History
from measure import HERE, free_port, save, table
from peers import Peer, find

from surefoot.chaos import percentile
from surefoot.client import Client, Job
from surefoot.events import EventKind

sys.path.append(str(HERE.parent / "examples"))

TRAINERS, SUB_TASKS, IN_SUB_TASK_S = 2, 8, 0.025
LIMIT_S = 120.0
# how long after the loss of a bystander steps are watched, and how long a control plane stays away
WATCH_S, AWAY_S = 6.0, 4.0
FULL_RESTART = Peer(name="Ray Train", command=("p3_raytrain.py", "kill"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What one fault cost."""

    # from the fault to the first new step; for a bystander's loss, the slowest step over the median one
    value: float
    parts: dict[str, float] = field(default_factory=dict)


class Watched:
    """A running job, followed."""

    def __init__(self, job: Job, trace: Path) -> None:
        self.job, self.trace, self.told = job, trace, History()
        self._updates = job.follow(20 * LIMIT_S)

    def until(self, what: Callable[[], Any]) -> Any:
        """Take what is told until this is true; return it."""
        deadline = time.monotonic() + LIMIT_S
        while not (found := what()):
            if time.monotonic() > deadline:
                raise TimeoutError(f"it did not come within {LIMIT_S:.0f} s; the job is {self.job.refresh().state}")
            self.told.take(next(self._updates))
        return found

    @property
    def generation(self) -> dict[str, Any]:
        newest = [event.data for event in self.told.events if event.kind is EventKind.GENERATION]
        return dict(newest[-1]) if newest else {"generation": 0, "trainers": []}

    def pid(self, trainer: str) -> int:
        ready = (event.data for event in self.told.events if event.kind is EventKind.TRAINER_READY)
        return next(int(str(data["pid"])) for data in ready if data["trainer"] == trainer)

    def calm(self, steps: int = 8) -> list[str]:
        """Wait until all trainers have made some steps together; return their names."""

        def is_calm() -> bool:
            generation = self.generation
            made = [r for r in self.told.ledger.values() if r.circumstances.generation == generation["generation"]]
            return len(generation["trainers"]) == TRAINERS and len(made) >= steps

        self.until(is_calm)
        return [str(name) for name in self.generation["trainers"]]

    def first_row_after(self, generation: int) -> float | None:
        """When a later generation committed its first step."""
        rows = [r.circumstances for r in self.told.ledger.values() if r.circumstances.generation > generation]
        return min(c.at for c in rows) if rows else None

    def at_of(self, kind: EventKind, since: float, *, last: bool = False) -> float:
        """When such an event was told first (or last) after this time; the same time if none was."""
        found = [e.at.timestamp() for e in self.told.events if e.kind is kind and e.at.timestamp() >= since]
        return (max(found) if last else min(found)) if found else since

    def in_user_code(self, pids: Sequence[int], begin: float, end: float) -> float:
        """The most that one of these processes spent in the train function meanwhile."""
        return max((self._spent(pid, begin, end) for pid in pids), default=0.0)

    def _spent(self, pid: int, begin: float, end: float) -> float:
        spans = (map(float, line.split()) for line in (self.trace / f"{pid}.txt").read_text().splitlines())
        return sum(max(0.0, min(until, end) - max(since, begin)) for since, until in spans)


def hit(job: Watched, number: int, chance: random.Random, sig: signal.Signals) -> Cost:
    """Kill or freeze one of the two trainers."""
    members = job.calm()
    victim, other = members[number % 2], members[1 - number % 2]
    generation = int(job.generation["generation"])
    time.sleep(chance.uniform(0, SUB_TASKS / TRAINERS * IN_SUB_TASK_S))  # where in a step it falls is chance
    at = time.time()
    os.kill(job.pid(victim), sig)
    row_at = float(job.until(lambda: job.first_row_after(generation)))
    mine = job.in_user_code([job.pid(other)], at, row_at)
    return Cost(value=row_at - at, parts={"beyond user code": row_at - at - mine})


def bystander(job: Watched, kill: Callable[[], None]) -> Cost:
    """Kill what takes no part in a step, and watch the steps after it."""
    job.calm()
    at = time.time()
    kill()
    job.until(lambda: any(r.circumstances.at > at + WATCH_S for r in job.told.ledger.values()))
    seconds = {r.result.step: r.circumstances for r in job.told.ledger.values()}
    median = statistics.median(c.seconds for c in seconds.values())
    after = [c.seconds for c in seconds.values() if at <= c.at <= at + WATCH_S]
    return Cost(value=max(after) / median)


def everyone(job: Watched) -> Cost:
    """Kill all trainers at once, some steps after a checkpoint."""
    members = job.calm()
    made = sum(e.kind is EventKind.CHECKPOINT for e in job.told.events)
    job.until(lambda: sum(e.kind is EventKind.CHECKPOINT for e in job.told.events) > made)
    generation = int(job.generation["generation"])
    at = time.time()
    for member in members:
        os.kill(job.pid(member), signal.SIGKILL)
    row_at = float(job.until(lambda: job.first_row_after(generation)))
    started = job.at_of(EventKind.TRAINER_STARTED, at, last=True)
    ready = job.at_of(EventKind.TRAINER_READY, at, last=True)
    restored = job.at_of(EventKind.RESTORED, at)
    parts = {
        "process start": started - at,
        "import and build": ready - started,
        "restore": restored - ready,
        "first step": row_at - restored,
    }
    return Cost(value=row_at - at, parts=parts)


# ---- the service


class Service:
    """A Ray head, and a control plane beside it that can be killed and started again."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._port = folder, free_port()
        self._env = {**os.environ, "SUREFOOT_DATA": str(folder / "data"), "RAY_USAGE_STATS_ENABLED": "0"}
        self._env |= {"RAY_AUTH_MODE": "disabled", "PYTHONWARNINGS": "ignore"}
        self._control: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start a head, in a short folder, and the control plane."""
        self._ray_folder = tempfile.mkdtemp(prefix="sf-", dir="/tmp")
        dashboard = free_port()
        options = {"port": free_port(), "dashboard-port": dashboard, "temp-dir": self._ray_folder, "num-cpus": 4}
        options |= {"object-store-memory": 80_000_000, "include-dashboard": True, "node-ip-address": "127.0.0.1"}
        ray = [str(Path(sys.executable).with_name("ray")), "start", "--head", "--block"]
        self._head = self._spawn([*ray, *(f"--{name}={value}" for name, value in options.items())], "ray")
        self._ray_address = f"http://127.0.0.1:{dashboard}"
        self.start_control()

    def start_control(self) -> None:
        (self._folder / "data" / "service.json").unlink(missing_ok=True)
        command = [sys.executable, "-c", "from surefoot.cli import main; main()", "up", "--port", str(self._port)]
        self._control = self._spawn([*command, "--ray-address", self._ray_address], "up")

    def kill_control(self) -> None:
        """SIGKILL it, and start it again after a while, in the background of the job."""
        assert self._control is not None
        self._control.kill()
        self._control.wait()
        time.sleep(AWAY_S)
        self.start_control()

    def kill_supervisor(self) -> None:
        for process in psutil.Process(self._head.pid).children(recursive=True):
            if "ray::SupervisorActor" in " ".join(process.cmdline()[:1]):
                process.kill()
                return
        raise RuntimeError("no supervisor is there")

    def _spawn(self, command: list[str], name: str) -> subprocess.Popen[bytes]:
        with (self._folder / f"{name}.log").open("ab") as log:
            return subprocess.Popen(command, env=self._env, stdout=log, stderr=log, start_new_session=True)

    def client(self) -> Client:
        """A client, as soon as the control plane answers."""
        from demo import wait_until_announced

        assert self._control is not None
        wait_until_announced(self._folder / "data" / "service.json", self._control)
        os.environ["SUREFOOT_DATA"] = self._env["SUREFOOT_DATA"]
        return Client()

    def stop(self) -> None:
        family = [psutil.Process(p.pid) for p in (self._control, self._head) if p is not None and p.poll() is None]
        family += [child for process in family for child in process.children(recursive=True)]
        for process in family:
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue
        psutil.wait_procs(family, 30)


@contextmanager
def service() -> Iterator[tuple[Service, Path]]:
    with tempfile.TemporaryDirectory(prefix="sf-domains-") as folder:
        made = Service(Path(folder))
        made.start()
        try:
            yield made, Path(folder)
        finally:
            made.stop()


@contextmanager
def running(client: Client, trace: Path, **options: Any) -> Iterator[Watched]:
    trace.mkdir(exist_ok=True)
    config = {"steps": 1_000_000, "trace": str(trace), "after_step_s": 0.0, "in_sub_task_s": IN_SUB_TASK_S}
    job = client.submit(
        "jobs:with_sleep", folder=HERE, config=config, batch_size=64, sub_tasks=SUB_TASKS, trainers=TRAINERS, cpus=0.5,
        **options,
    )  # fmt: skip
    try:
        yield Watched(job, trace)
    finally:
        job.cancel(wait=True)


# ---- the sitting


def sitting(num_faults: int) -> dict[str, list[Cost]]:
    costs: dict[str, list[Cost]] = {}
    chance = random.Random(0)
    with service() as (up, folder), up.client() as client:
        with running(client, folder / "trace") as job:
            for name, sig in (("trainer killed", signal.SIGKILL), ("trainer frozen", signal.SIGSTOP)):
                costs[name] = [hit(job, number, chance, sig) for number in range(num_faults)]
                tell(name, costs[name])
            costs["supervisor killed"] = [bystander(job, up.kill_supervisor) for _ in range(num_faults)]
            tell("supervisor killed", costs["supervisor killed"])
        with running(client, folder / "trace", checkpoint={"every_steps": 20, "every_s": None}) as job:
            costs["everyone killed"] = [everyone(job) for _ in range(num_faults)]
            tell("everyone killed", costs["everyone killed"])
        with running(client, folder / "trace") as job:
            costs["control plane killed"] = [bystander(job, up.kill_control) for _ in range(max(1, num_faults // 3))]
            tell("control plane killed", costs["control plane killed"])
    return costs


def tell(name: str, costs: Sequence[Cost]) -> None:
    print(name, [round(cost.value, 3) for cost in costs], flush=True)


AIMS = {
    "trainer killed": "0.3 s beyond recomputation",
    "trainer frozen": "3 s",
    "supervisor killed": "2x the median step",
    "control plane killed": "no step slower",
    "everyone killed": "less than Ray Train",
}


def page(costs: dict[str, list[Cost]], peer: list[float]) -> str:
    rows = []
    for name, found in costs.items():
        unit = "x median step" if name in ("supervisor killed", "control plane killed") else "s"
        values = [cost.value for cost in found]
        parts = {part: statistics.median(c.parts[part] for c in found) for part in found[0].parts}
        said = "; ".join(f"{part} {seconds:.3f} s" for part, seconds in parts.items())
        beyond = [cost.parts["beyond user code"] for cost in found if "beyond user code" in cost.parts]
        if beyond:
            said += f" (p99 {percentile(beyond, 0.99):.3f} s)"
        rows.append(
            [name, str(len(values)), f"{percentile(values, 0.5):.3f} {unit}", f"{percentile(values, 0.99):.3f} {unit}", said, AIMS[name]]
        )  # fmt: skip
    text = [
        "# Recovery by failure domain\n\n`python benchmarks/domains.py --save`: 2 trainers on Ray, steps of 100 ms. From the fault to the "
        "next committed step; for the supervisor and the control plane the slowest step of the seconds after it over the median step.",
        table(["domain", "faults", "p50", "p99", "of which, median", "aim"], rows),
    ]
    if peer:
        text.append(
            f"Ray Train's full restart in the same sitting: {', '.join(f'{s:.1f}' for s in peer)} s from the kill to the first new step."
        )
    return "\n\n".join(text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--faults", type=int, default=10, help="of each domain (of the control plane a third)")
    parser.add_argument("--peers", help="folder of the peers' scripts")
    parser.add_argument("--peers-python", help="a Python with the peers installed")
    parser.add_argument("--no-peers", action="store_true")
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/domains.md and .json")
    args = parser.parse_args()
    with nullcontext() if args.no_peers else find(args.peers, args.peers_python) as peers:
        costs = sitting(args.faults)
        told = [peers.kill_once(FULL_RESTART) for _ in range(2)] if peers else []
    peer = [float(one["kill_to_new_step_s"]) for one in told if one]
    text = page(costs, peer)
    print(text)
    if args.save:
        figures = {name: [asdict(cost) for cost in found] for name, found in costs.items()}
        save("domains", text, {"surefoot": figures, "ray_train_s": peer})


if __name__ == "__main__":
    main()
