"""Recovery by failure domain: what each fault costs a job that trains through it, on Ray, as a user runs it.

    python benchmarks/domains.py [--save] [--faults 10] [--peers FOLDER] [--peers-python PYTHON] [--no-peers]

Two trainers make steps of 8 sub-tasks that each sleep 25 ms. A trainer's loss is measured from the fault to the first step that a later
generation commits; the loss of a bystander (the supervisor, the control plane) by the slowest step meanwhile and just after it, beside
the slowest of as many undisturbed seconds. The loss of every trainer is measured to the first step after the newest
checkpoint, and held against Ray Train's full restart from the same sitting. Partitions need root, for a network namespace.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from measure import HERE, save, table
from peers import Peer, find
from rig import Network, Node, Watched, network, raylet, service

from surefoot.chaos import percentile
from surefoot.client import Client
from surefoot.events import EventKind

TRAINERS, SUB_TASKS, IN_SUB_TASK_S = 2, 8, 0.025
# how long steps are watched after a bystander has come back; how long a control plane stays away
WATCH_S, AWAY_S = 5.0, 15.0
FULL_RESTART = Peer(name="Ray Train", command=("p3_raytrain.py", "kill"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What one fault cost."""

    # seconds from the fault to the first new step; for a bystander's loss, the slowest step over the median one of undisturbed seconds
    value: float
    # what it is made of, or held against
    parts: dict[str, float] = field(default_factory=dict)


def lost(job: Watched, victim: str, fault: Callable[[], object]) -> Cost:
    """Lose one of the two trainers, somewhere in a step."""
    [other] = [trainer for trainer in job.calm() if trainer != victim]
    generation = job.generation
    at = time.time()
    fault()
    row_at = float(job.until(lambda: job.first_row_after(generation)))
    mine = job.in_user_code(job.pid(other), at, row_at)
    return Cost(value=row_at - at, parts={"beyond user code": row_at - at - mine})


def hit(job: Watched, number: int, chance: random.Random, sig: signal.Signals) -> Cost:
    """Kill or freeze the one or the other."""
    victim = job.calm()[number % TRAINERS]
    time.sleep(chance.uniform(0, SUB_TASKS / TRAINERS * IN_SUB_TASK_S))  # where in a step it falls is chance
    return lost(job, victim, lambda: os.kill(job.pid(victim), sig))


def cut_off(job: Watched, far: Node, wire: Network) -> Cost:
    """Cut the node of one of them off, both ways, until the other has gone on."""
    members, there = job.calm(), {process.pid for process in far.family()}
    [victim] = [trainer for trainer in members if job.pid(trainer) in there]
    cut = wire.cut()
    try:
        return lost(job, victim, cut.__enter__)
    finally:
        cut.__exit__(None, None, None)


def bystander(job: Watched, kill: Callable[[], None], back: Callable[[Watched, float], None]) -> Cost:
    """Kill what takes no part in a step; watch the steps until it is back and some seconds more, then as long without a fault."""
    at = time.time()
    kill()
    back(job, at)
    end = watch(job, time.time() + WATCH_S)
    quiet_end = watch(job, end + (end - at))
    disturbed, quiet = job.gaps(at, end), job.gaps(end, quiet_end)
    median = statistics.median(quiet)
    return Cost(value=max(disturbed) / median, parts={"slowest of as long without a fault": max(quiet) / median})


def watch(job: Watched, end: float) -> float:
    """Follow it until rows of after that time are there; return the time."""
    job.until(lambda: any(r.circumstances.at > end for r in job.told.ledger.values()))
    return end


def has_adopted(job: Watched, since: float) -> None:
    """Wait until a restarted supervisor has made a generation, with all trainers."""

    def made() -> bool:
        generations = (e for e in job.told.events if e.kind is EventKind.GENERATION)
        return any(e.at.timestamp() > since and len(e.data["trainers"]) == TRAINERS for e in generations)  # type: ignore[arg-type]

    job.until(made)


def everyone(job: Watched) -> Cost:
    """Kill all trainers at once, some steps after a checkpoint."""
    members = job.calm()
    made = sum(e.kind is EventKind.CHECKPOINT for e in job.told.events)
    job.until(lambda: sum(e.kind is EventKind.CHECKPOINT for e in job.told.events) > made)
    generation = job.generation
    at = time.time()
    for member in members:
        os.kill(job.pid(member), signal.SIGKILL)
    row_at = float(job.until(lambda: job.first_row_after(generation)))
    [restorer] = [
        str(event.data["trainer"])
        for event in job.told.events
        if event.kind is EventKind.RESTORED and event.at.timestamp() >= at
    ]
    started, ready = (job.at_of(kind, at, restorer) for kind in (EventKind.TRAINER_STARTED, EventKind.TRAINER_READY))
    restored = job.at_of(EventKind.RESTORED, at)
    parts = {
        "process start and import of torch": started - at,
        "import and run of the user's code up to steps()": ready - started,
        "waiting for the other, and restore": restored - ready,
        "first step": row_at - restored,
    }
    return Cost(value=row_at - at, parts=parts)


# ---- the sitting


@contextmanager
def running(client: Client, folder: Path, **options: Any) -> Iterator[Watched]:
    trace = folder / "trace"
    trace.mkdir(exist_ok=True)
    config = {"steps": 1_000_000, "trace": str(trace), "after_step_s": 0.0, "in_sub_task_s": IN_SUB_TASK_S}
    options = {"cpus": 0.5, "batch_size": 64, "sub_tasks": SUB_TASKS, "trainers": TRAINERS} | options
    job = client.submit("jobs:with_sleep", folder=HERE, config=config, **options)
    try:
        yield Watched(job, TRAINERS, trace)
    finally:
        job.cancel(wait=True)


Costs = dict[str, list[Cost]]


def sitting(num_faults: int) -> Costs:
    costs: Costs = {}
    chance = random.Random(0)

    def take(name: str, number: int, one: Callable[[int], Cost]) -> None:
        costs[name] = []
        for n in range(number):
            costs[name].append(one(n))
            print(f"{name}: {costs[name][-1].value:.3f} {costs[name][-1].parts}", flush=True)

    with service() as (control, _, folder), control.client() as client:
        with running(client, folder) as job:
            take("trainer killed", num_faults, lambda n: hit(job, n, chance, signal.SIGKILL))
            take("trainer frozen", num_faults, lambda n: hit(job, n, chance, signal.SIGSTOP))
            job.calm()
            take("supervisor killed", num_faults, lambda _: bystander(job, control.kill_supervisor, has_adopted))

            def is_back(job: Watched, since: float) -> None:
                time.sleep(AWAY_S)  # that long it is away
                control.start()

            take("control plane killed", max(1, num_faults // 2), lambda _: bystander(job, control.kill, is_back))
        with running(client, folder, checkpoint={"every_steps": 20, "every_s": None}) as job:
            take("everyone killed", num_faults, lambda _: everyone(job))
    # room for one trainer here, and for one at the other end of a wire
    with (
        network() as wire,
        service(num_cpus=1) as (control, head, folder),
        raylet(head, 1, inside=wire.inside, node_ip_address=wire.address) as far,
        control.client() as client,
        running(client, folder, cpus=1) as job,
    ):
        take("trainer partitioned", num_faults, lambda _: cut_off(job, far, wire))
    return costs


AIMS = {
    "trainer killed": "0.3 s beyond recomputation",
    "trainer frozen": "3 s",
    "trainer partitioned": "3 s",
    "supervisor killed": "2x the median step",
    "control plane killed": "no step slower",
    "everyone killed": "less than Ray Train",
}
BYSTANDERS = ("supervisor killed", "control plane killed")


def row(name: str, costs: Sequence[Cost]) -> list[str]:
    """A row of the table. A part is told by its median, and by its p99 where it is what the aim is about."""
    unit = "x median step" if name in BYSTANDERS else "s"
    parts = []
    for part in costs[0].parts:
        values = [cost.parts[part] for cost in costs]
        told = f"{part} {percentile(values, 0.5):.3f}"
        parts.append(told if name == "everyone killed" else f"{told} (p99 {percentile(values, 0.99):.3f})")
    values = [cost.value for cost in costs]
    spread = [f"{percentile(values, share):.3f} {unit}" for share in (0.5, 0.99)]
    return [name, str(len(values)), *spread, "; ".join(parts), AIMS[name]]


def page(costs: Costs, peer: list[float]) -> str:
    text = [
        "# Recovery by failure domain\n\n`python benchmarks/domains.py --save`: 2 trainers on Ray, steps of 100 ms. From the fault to the "
        "next committed step; for the supervisor and the control plane the slowest step, from commit to commit, until some seconds after "
        f"it is back (the control plane is away for {AWAY_S:g} s), over the median step of as many undisturbed seconds.",
        table(
            ["domain", "faults", "p50", "p99", "of which, or beside it: p50", "aim"],
            [row(name, costs[name]) for name in AIMS if name in costs],
        ),
    ]
    if peer:
        text.append(
            f"Ray Train's full restart in the same sitting: {', '.join(f'{s:.1f}' for s in peer)} s from the kill to the first new step."
        )
    return "\n\n".join(text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--faults", type=int, default=10, help="of each domain (of the control plane half as many)")
    parser.add_argument("--peers", help="folder of the peers' scripts")
    parser.add_argument("--peers-python", help="a Python with the peers installed")
    parser.add_argument("--no-peers", action="store_true")
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/domains.md and .json")
    args = parser.parse_args()
    with nullcontext() if args.no_peers else find(args.peers, args.peers_python) as peers:
        costs = sitting(args.faults)
        told = [peers.kill_once(FULL_RESTART) for _ in range(3)] if peers else []
    peer = [float(one["kill_to_new_step_s"]) for one in told if one]
    text = page(costs, peer)
    print(text)
    if args.save:
        figures = {name: [asdict(cost) for cost in found] for name, found in costs.items()}
        save("domains", text, {"surefoot": figures, "ray_train_s": peer})


if __name__ == "__main__":
    main()
