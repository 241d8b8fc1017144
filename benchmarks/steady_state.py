"""Steady state: Surefoot's steps per second beside plain DDP's at 2 trainers, and beside a bare loop's at 1.

    python benchmarks/steady_state.py [--save] [--rounds 5] [--workloads digits charlm]

All sides take turns, round after round (A B A B), each in processes of its own, one thread a process, so that whatever else the
machine does falls on all of them. Every claim is a ratio within one round; the table tells the median and the range over the rounds.
With as many sub-tasks as trainers, each trainer does a DDP rank's work; more sub-tasks than that are what a job pays to be
able to grow, told as a curve.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from measure import Figures, Spread, run_child, save, table
from workloads import WORKLOADS

MIB = 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """One way to train: a script of this folder, with its arguments but the steps."""

    name: str
    script: str
    before: tuple[str | int, ...]
    after: tuple[str | int, ...] = ()

    def run(self, workload: str, steps: int | None = None, *, own_network: bool = False) -> Figures:
        work = WORKLOADS[workload]
        number = work.warmup + work.timed if steps is None else steps
        return run_child(self.script, workload, *self.before, number, *self.after, own_network=own_network)


BARE = Side(name="bare loop", script="plain.py", before=(1,))
BARE_SLICES = Side(name="bare loop, data from a tensor", script="plain.py", before=(1,), after=("--feed", "slices"))
DDP = Side(name="DDP", script="plain.py", before=(2,))
DDP_SLICES = Side(name="DDP, data from a tensor", script="plain.py", before=(2,), after=("--feed", "slices"))


def surefoot(trainers: int, sub_tasks: int) -> Side:
    """0 trainers: run_local."""
    who = f"{trainers} trainers" if trainers else "run_local"
    return Side(name=f"Surefoot, {who}, {sub_tasks} sub-tasks", script="elastic.py", before=(trainers, sub_tasks))


# The first of each is what the others are measured against.
AT_ONE = (BARE, surefoot(0, 1), BARE_SLICES)
AT_TWO = (DDP, surefoot(2, 2), DDP_SLICES, surefoot(2, 4), surefoot(2, 8))


def rounds(workload: str, sides: Sequence[Side], num_rounds: int) -> dict[str, list[Figures]]:
    """Let the sides take turns."""
    told: dict[str, list[Figures]] = {side.name: [] for side in sides}
    for number in range(num_rounds):
        for side in sides:
            figures = side.run(workload)
            told[side.name].append(figures)
            print(f"  {workload} round {number + 1}: {side.name}: {figures.steps_per_s:.2f} steps/s", flush=True)
    return told


def speed_rows(told: dict[str, list[Figures]]) -> list[list[str]]:
    """A row a side: its steps per second, and the ratio to the first side's in the same round."""
    base, *_ = told.values()
    rows = []
    for name, figures in told.items():
        ratios = [mine.steps_per_s / other.steps_per_s for mine, other in zip(figures, base, strict=True)]
        memory = max(max(one.peak_bytes) for one in figures) / MIB
        speed = Spread.of(one.steps_per_s for one in figures).text()
        rows.append([name, speed, Spread.of(ratios).text(3), f"{memory:.0f}"])
    return rows


def bytes_a_step(side: Side, workload: str) -> float:
    """Bytes that all processes of a side send each other in a step: the difference of a longer run and a shorter one.

    So whatever is sent once, at the start and the end, is left out; messages to the supervisor are in.
    """
    few, many = (20, 60) if workload == "digits" else (2, 6)
    sent = [side.run(workload, steps, own_network=True).sent_bytes for steps in (few, many)]
    return (sent[1] - sent[0]) / (many - few)


def traffic(workload: str) -> tuple[list[list[str]], dict[str, float]]:
    """Rows and figures of bytes sent a step and trainer, against a ring all-reduce's 2 (n-1)/n of the gradients."""
    gradients = sum(p.numel() * p.element_size() for p in WORKLOADS[workload].model().parameters())
    sides = (DDP, surefoot(2, 2), surefoot(2, 8))
    figures = {side.name: bytes_a_step(side, workload) / 2 for side in sides}
    rows = [["ring all-reduce, by arithmetic", f"{gradients:,}", "1.000"]]
    rows += [[name, f"{sent:,.0f}", f"{sent / gradients:.3f}"] for name, sent in figures.items()]
    return rows, {"ring": gradients, **figures}


def measure(workload: str, num_rounds: int) -> tuple[str, dict[str, Any]]:
    """Measure one workload; return its part of the page, and its figures."""
    one, two = rounds(workload, AT_ONE, num_rounds), rounds(workload, AT_TWO, num_rounds)
    sent_rows, sent = traffic(workload)
    head = ["", "steps/s", "ratio", "peak MiB a process"]
    page = [
        f"## {workload}",
        "At 1 trainer, against the bare loop:",
        table(head, speed_rows(one)),
        "At 2 trainers, against DDP (4 and 8 sub-tasks: the price of being able to grow to as many trainers):",
        table(head, speed_rows(two)),
        "Bytes sent, a step and trainer, at 2 trainers:",
        table(["", "bytes", "ratio"], sent_rows),
    ]
    speeds = {name: [f.steps_per_s for f in figures] for name, figures in (one | two).items()}
    memory = {name: [f.peak_bytes for f in figures] for name, figures in (one | two).items()}
    return "\n\n".join(page), {"steps_per_s": speeds, "peak_bytes": memory, "sent_bytes_a_step": sent}


INTRO = """# Steady state

`python benchmarks/steady_state.py --save`: median (range) over {rounds} rounds in which all sides took turns; a ratio is within a
round. One thread a process. DDP and the bare loop read through a DataLoader; "data from a tensor" cuts batches out of memory instead.
A trainer's memory includes its watchdog process. Bytes are counted on a loopback device of the run's own, TCP headers included."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workloads", nargs="+", choices=sorted(WORKLOADS), default=["digits", "charlm"])
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/steady_state.md and .json")
    args = parser.parse_args()
    parts = {workload: measure(workload, args.rounds) for workload in args.workloads}
    page = "\n\n".join([INTRO.format(rounds=args.rounds), *(text for text, _ in parts.values())])
    print(page)
    if args.save:
        save("steady_state", page, {workload: figures for workload, (_, figures) in parts.items()})


if __name__ == "__main__":
    main()
