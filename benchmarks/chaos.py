"""A soak: faults of mixed kinds while a job trains on four trainers, on Ray, as a user runs it with `surefoot chaos`.

    python benchmarks/chaos.py [--save] [--minutes 10] [--per-minute 7] [--kinds trainer,freeze,supervisor] [--spares 1]

Steps of 200 ms: 8 sub-tasks that each sleep 100 ms, two a trainer. Says what the faults cost, and compares the ledger, row by row, with
that of `run_local`, which nothing happened to.
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
from pathlib import Path
from typing import Any

import jobs
from measure import HERE, save, table
from rig import service

import surefoot
from surefoot.chaos import ChaosReport, percentile
from surefoot.cli.chaos import ChaosRun, parse_kinds
from surefoot.events import EventKind, LedgerRow

TRAINERS, SUB_TASKS, BATCH_SIZE, IN_SUB_TASK_S = 4, 8, 64, 0.1
# the public anchor: throughput at 2 faults a minute, with the mathematics relaxed
ANCHOR = "97.7%"


def soak(args: argparse.Namespace) -> tuple[ChaosReport, list[LedgerRow]]:
    """Run the job under fire; return what it cost, and the job's whole ledger."""
    with service() as (control, _, folder), control.client() as client:
        trace = folder / "trace"
        trace.mkdir()
        config = {"steps": 1_000_000, "trace": str(trace), "after_step_s": 0.0, "in_sub_task_s": IN_SUB_TASK_S}
        job = client.submit(
            "jobs:with_sleep",
            folder=HERE,
            config=config,
            batch_size=BATCH_SIZE,
            sub_tasks=SUB_TASKS,
            trainers=TRAINERS,
            min_trainers=TRAINERS,
            spares=args.spares,
            cpus=0.25,
        )
        for update in job.follow(120):
            if isinstance(update, LedgerRow):
                break
        run = ChaosRun(client, job, parse_kinds(args.kinds), args.per_minute, 60 * args.minutes)
        told = run.run()
        job.cancel(wait=True)
        rows = job.ledger()
        for event in run.events:
            if event.kind is EventKind.FAILED:
                raise RuntimeError(f"the job failed: {event.data}")
        return told, rows


def undisturbed(num_steps: int, folder: Path) -> list[bytes]:
    """The results of that many steps in this process, without the sleep."""
    config: dict[str, Any] = {"steps": num_steps, "trace": str(folder), "after_step_s": 0.0, "in_sub_task_s": 0.0}
    found = surefoot.run_local(jobs.with_sleep, config=config, batch_size=BATCH_SIZE, sub_tasks=SUB_TASKS)
    return [row.result.canonical() for row in found.rows]


def differing(rows: list[LedgerRow], folder: Path) -> int | None:
    """The first step whose result is not the undisturbed one's; None: all are."""
    expected = undisturbed(len(rows), folder)
    mine = [row.result.canonical() for row in rows]
    return next((step for step, (a, b) in enumerate(itertools.zip_longest(mine, expected)) if a != b), None)


def page(args: argparse.Namespace, told: ChaosReport, differs: int | None) -> str:
    faults = sum(told.faults.values())
    kinds = []
    for kind, count in sorted(told.faults.items()):
        seconds = told.seconds_of(kind)
        spread = (
            [f"{percentile(seconds, share):.3f} s" for share in (0.5, 0.99)] if seconds else ["no step held up", ""]
        )
        kinds.append([kind.value, str(count), *spread])
    ledger = "identical" if differs is None else f"DIFFERS at step {differs}"
    rows = [
        [
            "faults",
            f"{faults} in {told.seconds / 60:.1f} min ({60 * faults / told.seconds:.1f} a minute)",
            "6 a minute",
        ],
        ["steps", f"{told.steps}", ""],
        ["steps lost", f"{told.steps_lost}", "0"],
        ["ledger against the undisturbed run's", ledger, "identical"],
        ["sub-tasks computed twice", f"at most {told.sub_tasks_again} of {told.steps * SUB_TASKS}", ""],
        ["goodput", f"{told.goodput:.1%} of the ideal for the trainers alive", "95%"],
    ]
    return "\n\n".join(
        [
            "# Chaos\n\n`python benchmarks/chaos.py --save`: "
            f"{TRAINERS} trainers and {args.spares} spare on Ray, steps of 200 ms, faults by `surefoot chaos`.",
            table(["", "measured", "aim"], rows),
            table(["fault", "number", "fault to the next committed step, p50", "p99"], kinds),
            f"The public anchor is {ANCHOR} throughput at 2 faults a minute, with the mathematics relaxed.",
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--per-minute", type=float, default=7.0)
    parser.add_argument("--kinds", default="trainer,freeze,supervisor")
    parser.add_argument("--spares", type=int, default=1)
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/chaos.md and .json")
    args = parser.parse_args()
    told, rows = soak(args)
    with tempfile.TemporaryDirectory(prefix="sf-chaos-") as folder:
        differs = differing(rows, Path(folder))
    text = page(args, told, differs)
    print(text)
    if args.save:
        recoveries = [{"kind": r.kind.value, "at": r.at, "seconds": r.seconds} for r in told.recoveries]
        figures = {"goodput": told.goodput, "steps": told.steps, "steps_lost": told.steps_lost, "differs": differs}
        save("chaos", text, figures | {"recoveries": recoveries, "sub_tasks_again": told.sub_tasks_again})
    if differs is not None or told.steps_lost:
        parser.exit(1, "the promise is broken\n")


if __name__ == "__main__":
    main()
