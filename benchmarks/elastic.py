"""Surefoot's side: a job on trainers that are local processes, under the real supervisor, or in this process by `run_local`.

    python benchmarks/elastic.py WORKLOAD NUM_TRAINERS SUB_TASKS STEPS

NUM_TRAINERS 0 means `run_local`. Prints one JSON line (see `measure.Figures`).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from measure import HERE, Figures, peak_memory_bytes
from workloads import WORKLOADS

from surefoot.events import EventKind, LedgerRow
from surefoot.spec import JobSpec, JobState
from surefoot_actors.cluster.local.cluster import LocalCluster
from surefoot_actors.journal.memory import MemoryJournal
from surefoot_actors.liveness.server import LivenessServer
from surefoot_actors.supervisor.supervisor import Outcome, Supervisor
from surefoot_actors.uplink.memory import MemoryUplink

__all__ = ["run_job", "spec_of"]


def spec_of(function: str, *, batch_size: int, sub_tasks: int, trainers: int, config: dict[str, Any]) -> JobSpec:
    """Return the spec of a job that runs a train function of jobs.py on `trainers` at once."""
    return JobSpec(
        entrypoint=f"jobs:{function}",
        package="0" * 64,
        batch_size=batch_size,
        sub_tasks=sub_tasks,
        trainers=trainers,
        config=config,
    )


async def run_job(
    spec: JobSpec,
    uplink: MemoryUplink,
    beside: Callable[[], Coroutine[Any, Any, None]] | None = None,
    *,
    path: Path = HERE,
) -> None:
    """Run a job, whose code is in `path`, to its end; `uplink` keeps what it tells.

    `beside` runs meanwhile; the job ends with it if that is first.

    Raises RuntimeError, with the job's reason, unless it succeeded or `beside` ended it.
    """
    liveness = LivenessServer("bench")
    await liveness.start()
    try:
        with tempfile.TemporaryDirectory(prefix="sf-bench-") as logs:
            cluster = LocalCluster("bench", path=[str(path)], log_dir=Path(logs), liveness=liveness)
            job = asyncio.create_task(Supervisor(spec, "bench", cluster, uplink, MemoryJournal(), liveness).run())
            outcome = await _until_either(job, asyncio.create_task(beside()) if beside else None)
            if outcome is not None and outcome.state is not JobState.SUCCEEDED:
                raise RuntimeError(f"the job {outcome.state}: {outcome.reason}\n{_last_words(uplink, Path(logs))}")
    finally:
        await liveness.close()


def _last_words(uplink: MemoryUplink, logs: Path) -> str:
    told = [str(event.data.get("traceback")) for event in uplink.events if event.kind is EventKind.FAILED]
    return "\n".join(told + [log.read_text()[-2000:] for log in logs.iterdir()])


async def _until_either(job: asyncio.Task[Outcome], beside: asyncio.Task[None] | None) -> Outcome | None:
    """Wait for the first to end, then end the other. None: it was not the job."""
    both: Sequence[asyncio.Task[Any]] = [job, beside] if beside else [job]
    try:
        await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in both:
            if not task.done():
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task
    if beside and not beside.cancelled():
        beside.result()
    return None if job.cancelled() else job.result()


def timed(rows: Sequence[LedgerRow], warmup: int) -> list[float]:
    """The clock at the end of the last step before the timed part, and of each after it."""
    return [row.circumstances.at for row in rows[min(warmup, len(rows) - 1) - 1 :]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("workload", choices=sorted(WORKLOADS))
    for name in ("trainers", "sub_tasks", "steps"):
        parser.add_argument(name, type=int)
    args = parser.parse_args()
    workload = WORKLOADS[args.workload]
    with tempfile.TemporaryDirectory(prefix="sf-memory-") as memory:
        config = {"workload": args.workload, "steps": args.steps, "memory": memory}
        if args.trainers:
            rows = _elastic(args, workload.batch_size, config)
            peaks = sorted(int(json.loads(path.read_text())) for path in Path(memory).iterdir())
        else:
            rows = _local(args, workload.batch_size, config)
            peaks = [peak_memory_bytes()]
    Figures(step_ends=timed(rows, workload.warmup), peak_bytes=peaks).tell()


def _elastic(args: argparse.Namespace, batch_size: int, config: dict[str, Any]) -> list[LedgerRow]:
    spec = spec_of("steady", batch_size=batch_size, sub_tasks=args.sub_tasks, trainers=args.trainers, config=config)
    uplink = MemoryUplink()
    asyncio.run(run_job(spec, uplink))
    return [uplink.ledger[step] for step in range(args.steps)]


def _local(args: argparse.Namespace, batch_size: int, config: dict[str, Any]) -> list[LedgerRow]:
    import jobs

    import surefoot

    torch.set_num_threads(1)
    result = surefoot.run_local(jobs.steady, config=config, batch_size=batch_size, sub_tasks=args.sub_tasks)
    rows: list[LedgerRow] = list(result.rows)
    return rows


if __name__ == "__main__":
    main()
