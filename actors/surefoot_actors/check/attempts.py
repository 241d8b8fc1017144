"""Whole attempts on real trainers, as processes of this machine: other numbers of them, one lost, one joining."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from surefoot.errors import ContractError, SurefootError
from surefoot.events import EventKind
from surefoot.spec import JobSpec, JobState
from surefoot_actors.check.extent import FEWEST_STEPS
from surefoot_actors.check.probe import BROKEN, NO_END, RAISED, Failure, Seen
from surefoot_actors.check.templates import QUIET
from surefoot_actors.check.trainer import FOLDER, HOLD, OUT, STEPS
from surefoot_actors.cluster.local.cluster import LocalCluster
from surefoot_actors.cluster.local.lent_cluster import LentCluster
from surefoot_actors.journal.memory import MemoryJournal
from surefoot_actors.liveness.server import LivenessServer
from surefoot_actors.supervisor.supervisor import Supervisor
from surefoot_actors.uplink.memory import MemoryUplink

__all__ = ["Trial", "run_attempts", "step_to_hold", "trials"]


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


def trials(sub_tasks: int, hold: int = 2) -> list[Trial]:
    """Return the attempts to make: none has more trainers than there are sub-tasks. `hold`: the step whose end waits for a joiner."""
    numbers = [n for n in (1, 2, 3) if n <= sub_tasks]
    found = [Trial(name=f"{n} trainer{'s' * (n > 1)}, real processes", key=f"attempt-{n}", trainers=n) for n in numbers]
    if sub_tasks > 1:
        name = "2 trainers, one killed, a fresh one joins"
        found.append(Trial(name=name, key="attempt-join", trainers=2, faults=("KILL@backward:t1:1",), hold=hold))
    return found


def step_to_hold(reference: Seen) -> int:
    """Return the step whose end waits for a joiner: after the last change of structure or data that leaves the joiner steps to make."""
    latest = len(reference.rows) - 3
    return max(2, *(step for step in (2, *reference.changes) if step <= latest))


def run_attempts(
    spec: JobSpec, reference: Seen, folder: Path, out: Path, patience_s: float, preload: Sequence[str] = ()
) -> dict[str, Seen]:
    """Make every attempt, one after another, as far as the reference went; return what each did, by name.

    `preload`: libraries to import once for all.
    """
    env = {STEPS: str(len(reference.rows)), OUT: str(out), FOLDER: str(folder), **QUIET}
    planned = [
        trial
        for trial in trials(spec.sub_tasks, step_to_hold(reference))
        if trial.hold is None or len(reference.rows) >= FEWEST_STEPS
    ]
    for trial in planned:
        (out / trial.key).mkdir()
        if trial.hold is not None:
            (out / trial.key / HOLD).write_text(str(trial.hold))
    return asyncio.run(_all(spec, planned, out, folder, env, patience_s, preload))


async def _all(
    spec: JobSpec,
    planned: Sequence[Trial],
    out: Path,
    folder: Path,
    env: dict[str, str],
    patience_s: float,
    preload: Sequence[str],
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
        return {t.name: await _attempt(t, spec, cluster, out / t.key, patience_s) for t in planned}


async def _attempt(trial: Trial, spec: JobSpec, cluster: LocalCluster, out: Path, patience_s: float) -> Seen:
    began = time.monotonic()
    fields = {"trainers": trial.trainers, "min_trainers": trial.trainers, "max_trainers": None}
    uplink, liveness, lent = MemoryUplink(), LivenessServer(trial.key), LentCluster(cluster)
    await liveness.start()
    try:
        async with asyncio.timeout(patience_s):
            supervisor = Supervisor(
                spec.model_copy(update=fields), trial.key, lent, uplink, MemoryJournal(), liveness, trial.faults
            )
            failure = await _ended(supervisor, uplink)
    except TimeoutError:
        failure = Failure(kind=NO_END, message=f"it did not end within {patience_s:.0f} s", line="", traceback="")
    finally:
        await liveness.close()
        await lent.close()
    seen = _seen(uplink, out, failure)
    if failure is None and trial.hold is not None and not _joined(uplink):
        seen.failure = Failure(kind="no joiner", message="no fresh trainer came to join", line="", traceback="")
    seen.seconds = time.monotonic() - began
    return seen


async def _ended(supervisor: Supervisor, uplink: MemoryUplink) -> Failure | None:
    """Return how the attempt failed, if it did. What one trainer raises is enough here: the others need not confirm it."""
    running, raised = asyncio.create_task(supervisor.run()), asyncio.create_task(_raised(uplink))
    try:
        await asyncio.wait({running, raised}, return_when=asyncio.FIRST_COMPLETED)
        if running.done():
            return None if running.result().state is JobState.SUCCEEDED else _failure(uplink)
        return raised.result()
    finally:
        for task in (running, raised):
            task.cancel()
        await asyncio.wait({running, raised})


async def _raised(uplink: MemoryUplink) -> Failure:
    """Wait until a trainer is lost by what its code raised."""
    while True:
        for event in uplink.events:
            if event.kind is EventKind.TRAINER_LOST and "traceback" in event.data:
                return _told(str(event.data["traceback"]).rstrip())
        await uplink.changed()


def _told(traceback: str) -> Failure:
    """What a trainer raised; what only Surefoot raises, as DriftError, is no error of the code's for certain."""
    message = traceback.rpartition("\n")[2]
    ours = message.startswith(f"{SurefootError.__module__}.")
    broken = message.startswith(f"{ContractError.__module__}.{ContractError.__name__}")
    kind = BROKEN if broken else "failed" if ours else RAISED
    return Failure(kind=kind, message=message, line="", traceback=traceback)


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
