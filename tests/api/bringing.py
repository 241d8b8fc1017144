"""Brings a job to a tracker, is killed ten times on the way, and tells what the tracker's own library reads there. A program.

The libraries lie in a folder of their own (tests/libraries.txt), so that they are in this process alone.
"""

from __future__ import annotations

import atexit
import importlib
import json
import os
import random
import signal
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.api.conftest import make_spec, make_view

from surefoot.events import Circumstances, LedgerRow, Result
from surefoot.spec import JobState
from surefoot.trackers.about import About, about
from surefoot.trackers.follow import bring
from surefoot.trackers.tracking import open_tracker

STEPS, KILLS = 60, 10
CONFIG = {"lr": 0.1, "model": {"dim": 3, "names": ["a", "b"]}, "what @ll": "x" * 7000}
JOB = about(make_view(spec=make_spec(name="digits", config=CONFIG, seed=7, target="loss<=0")))
OTHER = about(make_view("zzz2345678", spec=make_spec(name="digits")))
PLACE = "here"


def values(n: int) -> dict[str, float]:
    """Of a step: names that are odd, numbers that are none, and what is not logged with every step."""
    seldom = {"accuracy": n / STEPS} if n % 5 == 0 else {}
    loss = {7: float("nan"), 8: float("inf"), 9: float("-inf")}.get(n, n / 2)
    return {"loss": loss, "top@5": float(n), "top#5": -float(n), "step": 1.0, "_x": 2.0, "../y": 3.0, **seldom}


def rows(start: int = 0, end: int = STEPS) -> Iterator[LedgerRow]:
    for n in range(start, end):
        result = Result(step=n, first_sample=n * 64, num_samples=64, digest=f"{n:032x}", values=values(n))
        yield LedgerRow(result=result, circumstances=Circumstances(generation=1, trainers=1, seconds=0.1, at=1e9 + n))


class Dying:
    """A tracker in whose process a step is the last, which is flushed or not."""

    def __init__(self, tracker: Any, last: int, flushed: bool) -> None:
        self._tracker, self._last, self._flushed = tracker, last, flushed

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tracker, name)

    def write(self, row: LedgerRow) -> bool:
        new: bool = self._tracker.write(row)
        if row.result.step == self._last:
            if self._flushed:
                self._tracker.flush()
                if os.environ.get("WANDB_MODE") == "online":
                    # W&B sends at the end, or after 15 s: what is not sent by then, the next process brings
                    self._tracker.close()
            os.kill(os.getpid(), signal.SIGKILL)
        return new


def in_a_child(kind: str, job: About, kill_at: int, *, flushed: bool = False) -> None:
    child = os.fork()
    if not child:
        try:
            tracker = open_tracker(f"{kind}:{PLACE}", job)
            bring(rows(tracker.last_step() + 1), Dying(tracker, kill_at, flushed))
            tracker.close(JobState.SUCCEEDED)
            atexit._run_exitfuncs()  # as any program ends: W&B's own process is waited for
            os._exit(0)
        except BaseException as error:
            print(repr(error), file=sys.stderr, flush=True)
            raise
        finally:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == (0 if kill_at == STEPS else -signal.SIGKILL)


# ---- what is there: the points of each value, and what is told of the job


def in_mlflow() -> dict[str, Any]:
    from mlflow.tracking import MlflowClient

    client = MlflowClient()
    folder = client.get_experiment_by_name(PLACE)
    runs = client.search_runs([folder.experiment_id], f"tags.`surefoot.job` = '{JOB.job}'")
    run = runs[0]
    points = {
        name: [
            (metric.step, metric.value, metric.timestamp) for metric in client.get_metric_history(run.info.run_id, name)
        ]
        for name in run.data.metrics
    }
    told = {"params": run.data.params, "tags": run.data.tags, "status": run.info.status, "name": run.info.run_name}
    return {"runs": len(runs), "points": points, **told}


def cut_mlflow_short() -> None:
    """As a store of files may be left: the next step is there with one of its values."""
    from mlflow.tracking import MlflowClient

    client = MlflowClient()
    [run] = client.search_runs(
        [client.get_experiment_by_name(PLACE).experiment_id], f"tags.`surefoot.job` = '{JOB.job}'"
    )
    step = 1 + max(metric.step for metric in client.get_metric_history(run.info.run_id, "loss"))
    client.log_metric(run.info.run_id, "loss", values(step)["loss"], (10**9 + step) * 1000, step)


def in_trackio() -> dict[str, Any]:
    from trackio.sqlite_storage import SQLiteStorage

    points: dict[str, list[Any]] = {}
    for log in SQLiteStorage.get_logs(PLACE, JOB.title, run_id=JOB.job):
        step, at = log.pop("step"), log.pop("timestamp")
        for name, value in log.items():
            points.setdefault(name, []).append((step, value, at))
    runs = [run for run in SQLiteStorage.get_run_records(PLACE) if run["id"] == JOB.job]
    return {"runs": len(runs), "points": points, "config": SQLiteStorage.get_run_config(PLACE, run_id=JOB.job)}


def in_wandb() -> dict[str, Any]:
    from wandb.proto.wandb_internal_pb2 import Record

    if os.environ["WANDB_MODE"] == "online":
        return {}  # the test has the server
    files = list(Path(os.environ["WANDB_DIR"], "wandb").glob(f"offline-run-*-{JOB.job}/*.wandb"))
    points: dict[str, list[Any]] = {}
    told: dict[str, Any] = {}
    for data in _records(files[0].read_bytes()):
        record = Record.FromString(data)
        if record.WhichOneof("record_type") == "run":
            config = {item.key: json.loads(item.value_json) for item in record.run.config.update}
            told = {"config": config, "tags": list(record.run.tags), "name": record.run.display_name}
        if record.WhichOneof("record_type") == "history":
            items = {item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
            for name in items.keys() - {"_step", "_timestamp", "_runtime"}:
                points.setdefault(name, []).append((items["_step"], items[name], items["_timestamp"]))
    return {"runs": len(files), "points": points, **told}


def _records(data: bytes) -> Iterator[bytes]:
    """The records of W&B's log, which has LevelDB's format: blocks of 32 KiB, of pieces with a head of 7 bytes each."""
    at, record = 7, b""
    while at + 7 <= len(data):
        if (left := 32768 - at % 32768) < 7:
            at += left
            continue
        _, length, kind = struct.unpack_from("<IHB", data, at)
        record += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last piece
            yield record
            record = b""


IMPORTED = {
    "mlflow": ("mlflow.tracking", "mlflow.store.tracking.sqlalchemy_store"),
    "trackio": ("trackio.sqlite_storage",),
    "wandb": ("wandb",),
}
READERS = {"mlflow": in_mlflow, "trackio": in_trackio, "wandb": in_wandb}


def main(kind: str, libraries: str) -> None:
    sys.path.append(libraries)
    for module in IMPORTED[kind]:  # once, rather than in each child
        importlib.import_module(module)
    chance = random.Random(kind)
    for n, kill_at in enumerate(sorted(chance.sample(range(1, STEPS - 1), KILLS))):
        in_a_child(kind, JOB, kill_at, flushed=n % 3 > 0)
    in_a_child(kind, OTHER, STEPS)
    if kind == "mlflow":
        cut_mlflow_short()
    in_a_child(kind, JOB, STEPS)
    first = READERS[kind]()
    in_a_child(kind, JOB, STEPS)
    again = READERS[kind]()
    tracker = open_tracker(f"{kind}:{PLACE}", JOB)
    seen = {"where": tracker.where, "last_step": tracker.last_step()}
    tracker.write(next(rows()))
    tracker.flush()
    print(json.dumps({"first": first, "again": again, "renamed": tracker.renamed, **seen}))


if __name__ == "__main__":
    main(*sys.argv[1:])
