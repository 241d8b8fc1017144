"""Whole attempts on real trainers, as processes of this machine: other numbers of them, one lost, one joining."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from surefoot.events import EventKind
from surefoot.spec import JobSpec, JobState
from surefoot_actors.check.probe import Failure, Seen
from surefoot_actors.check.trainer import FOLDER, HOLD, OUT, STEPS
from surefoot_actors.cluster import TrainerHandle, TrainerSetup
from surefoot_actors.journal import MemoryJournal
from surefoot_actors.local_cluster import LocalCluster
from surefoot_actors.pulse import PulseServer
from surefoot_actors.supervisor import Supervisor
from surefoot_actors.uplink import MemoryUplink

__all__ = ["Trial", "run_attempts", "trials"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """How to make an attempt."""

    name: str
    # of the attempt, and of its folder
    key: str
    trainers: int
    faults: tuple[str, ...] = ()
    # the step whose end waits for a joiner; None: nobody joins
    hold: int | None = None


def trials(sub_tasks: int) -> list[Trial]:
    """Return the attempts to make: none has more trainers than there are sub-tasks."""
    numbers = [n for n in (1, 2, 3) if n <= sub_tasks]
    found = [Trial(name=f"{n} trainer{'s' * (n > 1)}, real processes", key=f"attempt-{n}", trainers=n) for n in numbers]
    if sub_tasks > 1:
        name = "2 trainers, one killed, a fresh one joins"
        found.append(Trial(name=name, key="attempt-join", trainers=2, faults=("KILL@backward:t1:1",), hold=2))
    return found


def run_attempts(
    spec: JobSpec, steps: int, folder: Path, out: Path, patience_s: float, preload: Sequence[str] = ()
) -> dict[str, Seen]:
    """Make every attempt, one after another; return what each did, by name. `preload`: libraries to import once for all."""
    env = {STEPS: str(steps), OUT: str(out), FOLDER: str(folder)}
    for trial in trials(spec.sub_tasks):
        (out / trial.key).mkdir()
        if trial.hold is not None:
            (out / trial.key / HOLD).write_text(str(trial.hold))
    return asyncio.run(_all(spec, out, folder, env, patience_s, preload))


async def _all(
    spec: JobSpec, out: Path, folder: Path, env: dict[str, str], patience_s: float, preload: Sequence[str]
) -> dict[str, Seen]:
    cluster = LocalCluster(
        "check",
        [str(folder)],
        env,
        service="surefoot_actors.check.trainer:RehearsingTrainer",
        preload=("torch", "surefoot_actors.check.trainer", *preload),
        log_dir=out,
    )
    async with cluster:
        return {t.name: await _attempt(t, spec, cluster, out / t.key, patience_s) for t in trials(spec.sub_tasks)}


class _Lent:
    """The cluster, lent to one supervisor: closing it ends its trainers, but not the process they are forked from."""

    installs = False

    def __init__(self, cluster: LocalCluster) -> None:
        self.on_notice: Callable[[str, str], None] = lambda trainer, reason: None
        self._cluster = cluster
        self._handles: list[TrainerHandle] = []

    async def start_trainer(self, setup: TrainerSetup) -> TrainerHandle:
        handle = await self._cluster.start_trainer(setup)
        self._handles.append(handle)
        return handle

    async def find_trainers(self) -> list[TrainerHandle]:
        return []

    async def close(self) -> None:
        await asyncio.gather(*(handle.kill() for handle in self._handles))


async def _attempt(trial: Trial, spec: JobSpec, cluster: LocalCluster, out: Path, patience_s: float) -> Seen:
    began = time.monotonic()
    fields = {"trainers": trial.trainers, "min_trainers": trial.trainers, "max_trainers": None}
    uplink, pulse, lent = MemoryUplink(), PulseServer(trial.key), _Lent(cluster)
    await pulse.start()
    try:
        async with asyncio.timeout(patience_s):
            supervisor = Supervisor(
                spec.model_copy(update=fields), trial.key, lent, uplink, MemoryJournal(), pulse, trial.faults
            )
            state = (await supervisor.run()).state
        failure = None if state is JobState.SUCCEEDED else _failure(uplink)
    except TimeoutError:
        failure = Failure(kind="no end", message=f"it did not end within {patience_s:.0f} s", line="", traceback="")
    finally:
        await pulse.close()
        await lent.close()
    seen = _seen(uplink, out, failure)
    if failure is None and trial.hold is not None and not _joined(uplink):
        seen.failure = Failure(kind="no joiner", message="no fresh trainer came to join", line="", traceback="")
    seen.seconds = time.monotonic() - began
    return seen


def _seen(uplink: MemoryUplink, out: Path, failure: Failure | None) -> Seen:
    digests = {int(file.name.partition("-")[0]): json.loads(file.read_text()) for file in sorted(out.glob("*.json"))}
    rows = {step: row.result.canonical().decode() for step, row in sorted(uplink.ledger.items())}
    return Seen(rows=rows, digests=digests, failure=failure)


def _failure(uplink: MemoryUplink) -> Failure:
    failed = [event.data for event in uplink.events if event.kind is EventKind.FAILED]
    data = failed[-1] if failed else {"reason": "it ended without success", "traceback": ""}
    return Failure(kind="failed", message=str(data["reason"]), line="", traceback=str(data["traceback"]))


def _joined(uplink: MemoryUplink) -> bool:
    generations = [event.data for event in uplink.events if event.kind is EventKind.GENERATION]
    return any("t2" in (data["joined"] or ()) for data in generations if isinstance(data["joined"], list))
