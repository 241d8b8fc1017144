"""Surefoot's recovery: one of two trainers is killed, over and over, in one job.

`on_local_processes` runs it under the real supervisor without Ray; `on_ray` as a user would, by `surefoot up` and the SDK.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, cast

from elastic import run_job, spec_of
from measure import HERE

from surefoot.events import Event, EventKind, LedgerRow
from surefoot_actors.uplink.memory import MemoryUplink

sys.path.append(str(HERE.parent / "examples"))

__all__ = ["Recovery", "on_local_processes", "on_ray"]

TRAINERS, BATCH_SIZE = 2, 64
# steps that the two have made together before the next kill
CALM_STEPS = 10
LIMIT_S = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Sleep:
    """Where a step sleeps: see jobs.with_sleep."""

    sub_tasks: int
    after_step_s: float = 0.0
    in_sub_task_s: float = 0.0

    def config(self, trace: Path) -> dict[str, Any]:
        sleeps = {"after_step_s": self.after_step_s, "in_sub_task_s": self.in_sub_task_s}
        return sleeps | {"steps": 1_000_000, "trace": str(trace)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Recovery:
    """One kill."""

    # from the kill to the first step committed without the killed trainer
    kill_to_step_s: float
    # of that, what the survivor spent in the train function's own code: sub-tasks, and the sleep after a step
    in_user_code_s: float
    # sub-tasks computed twice
    sub_tasks_again: int
    # whether it had rank 0, which hosts the generation's store
    was_first: bool


class Told(Protocol):
    """What the job has told so far."""

    @property
    def events(self) -> Sequence[Event]: ...

    @property
    def ledger(self) -> Mapping[int, LedgerRow]: ...


@dataclass
class History:
    """What a followed job has told."""

    events: list[Event] = field(default_factory=list)
    ledger: dict[int, LedgerRow] = field(default_factory=dict)

    def take(self, update: object) -> None:
        if isinstance(update, Event):
            self.events.append(update)
        elif isinstance(update, LedgerRow):
            self.ledger[update.result.step] = update


class Killer:
    """Kills the one and the other in turn, each time when both have made some steps together."""

    def __init__(self, told: Told, num_kills: int, trace: Path) -> None:
        self.recoveries: list[Recovery] = []
        self._told, self._num_kills, self._trace = told, num_kills, trace
        # where in a step a kill falls is chance, the same in every run
        self._chance = random.Random(0)
        self._victim: _Victim | None = None

    def look(self) -> bool:
        """Act on what was told; return whether all kills are done. To be called whenever something was told."""
        if self._victim is None:
            self._choose()
        elif self._victim.killed_at and (row := self._first_row_after(self._victim.generation)) is not None:
            self.recoveries.append(self._recovery(self._victim, row))
            self._victim = None
        return len(self.recoveries) == self._num_kills

    def _choose(self) -> None:
        generations = [event.data for event in self._told.events if event.kind is EventKind.GENERATION]
        if not generations:
            return
        newest, members = generations[-1], cast(list[str], generations[-1]["trainers"])
        steps = sum(row.circumstances.generation == newest["generation"] for row in self._told.ledger.values())
        if len(members) == TRAINERS and steps >= CALM_STEPS:
            rank = len(self.recoveries) % TRAINERS
            pids = self._pids()
            self._victim = _Victim(
                pid=pids[members[rank]],
                other=pids[members[1 - rank]],
                rank=rank,
                generation=cast(int, newest["generation"]),
            )
            threading.Timer(self._chance.uniform(0, 0.1), self._victim.kill).start()

    def _pids(self) -> dict[str, int]:
        ready = (event.data for event in self._told.events if event.kind is EventKind.TRAINER_READY)
        return {str(data["trainer"]): cast(int, data["pid"]) for data in ready}

    def _first_row_after(self, generation: int) -> LedgerRow | None:
        later = [step for step, row in self._told.ledger.items() if row.circumstances.generation > generation]
        return self._told.ledger[min(later)] if later else None

    def _recovery(self, victim: _Victim, row: LedgerRow) -> Recovery:
        number, committed_at = row.circumstances.generation, row.circumstances.at
        told = (event.data for event in self._told.events if event.kind is EventKind.GENERATION)
        again = [cast(int, data["sub_tasks_again"]) for data in told if data["generation"] == number]
        return Recovery(
            kill_to_step_s=committed_at - victim.killed_at,
            in_user_code_s=self._in_user_code(victim.other, victim.killed_at, committed_at),
            sub_tasks_again=sum(again),
            was_first=victim.rank == 0,
        )

    def _in_user_code(self, pid: int, begin: float, end: float) -> float:
        spans = (map(float, line.split()) for line in (self._trace / f"{pid}.txt").read_text().splitlines())
        return sum(max(0.0, min(until, end) - max(since, begin)) for since, until in spans)


@dataclass
class _Victim:
    pid: int
    # the survivor's
    other: int
    rank: int
    generation: int
    # unix time; 0: not yet
    killed_at: float = 0.0

    def kill(self) -> None:
        self.killed_at = time.time()
        os.kill(self.pid, signal.SIGKILL)


def on_local_processes(num_kills: int, sleep: Sleep) -> list[Recovery]:
    """Measure under the supervisor alone. Raises TimeoutError where it hangs."""
    with tempfile.TemporaryDirectory(prefix="sf-trace-") as trace:
        config = sleep.config(Path(trace))
        spec = spec_of("with_sleep", batch_size=BATCH_SIZE, sub_tasks=sleep.sub_tasks, trainers=TRAINERS, config=config)
        uplink = MemoryUplink()
        killer = Killer(uplink, num_kills, Path(trace))

        async def watch() -> None:
            async with asyncio.timeout(LIMIT_S * num_kills):
                while not killer.look():
                    await uplink.changed()

        asyncio.run(run_job(spec, uplink, watch))
    return killer.recoveries


def on_ray(num_kills: int, sleep: Sleep) -> list[Recovery]:
    """Measure a submitted job, on a Ray head of its own. Raises TimeoutError where it hangs."""
    from demo import service

    with tempfile.TemporaryDirectory(prefix="sf-kills-") as folder, service(Path(folder)) as client:
        trace = Path(folder) / "trace"
        trace.mkdir()
        job = client.submit(
            "jobs:with_sleep",
            folder=HERE,
            config=sleep.config(trace),
            batch_size=BATCH_SIZE,
            sub_tasks=sleep.sub_tasks,
            trainers=TRAINERS,
            cpus=0.5,
        )
        history = History()
        killer = Killer(history, num_kills, trace)
        for update in job.follow(LIMIT_S * num_kills):
            history.take(update)
            if killer.look():
                job.cancel(wait=True)
                return killer.recoveries
        raise RuntimeError(f"the job {job.view.state}: {job.view.reason}\n{job.view.traceback or ''}")
