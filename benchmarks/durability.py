"""What it costs that whatever is acknowledged is on disk: uplink batches a second, with and without the sync, one writer and many.

    python benchmarks/durability.py [--dir FOLDER] [--seconds 5]

Each writer posts one batch after another (10 rows, an event), as a supervisor does, to the store itself: no HTTP. `alone` commits each
batch by itself, as before; `group` is the service's own writer, which commits those that wait together.
"""

from __future__ import annotations

import argparse
import asyncio
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import event
from sqlalchemy.orm import Session

from surefoot.events import Circumstances, Event, EventKind, LedgerRow, Result, SentBatch, UplinkBatch
from surefoot.spec import JobSpec
from surefoot_service.keys import Keys
from surefoot_service.store import attempts, jobs, packages, transactions
from surefoot_service.store.database import Database
from surefoot_service.store.ingest import ingest

ROWS = 10
SPEC = JobSpec(entrypoint="train:train", package="0" * 64, batch_size=8)
KEYS = Keys(token_hash="", key=b"k")


def batch(n: int) -> UplinkBatch:
    now = datetime.now(UTC)
    rows = tuple(
        LedgerRow(
            result=Result(step=step, first_sample=step * 8, num_samples=8, digest=f"{step:032x}", values={"loss": 0.5}),
            circumstances=Circumstances(generation=1, trainers=2, seconds=0.01, at=now.timestamp()),
        )
        for step in range(n * ROWS, (n + 1) * ROWS)
    )
    told = Event(source="supervisor-1", n=n + 1, at=now, kind=EventKind.WARNING, data={"message": "x"})
    return UplinkBatch.model_validate_json(SentBatch(events=(told,), rows=rows).model_dump_json())


def start(session: Session) -> str:
    now = datetime.now(UTC)
    packages.add(session, SPEC.package, 1, now=now)
    job, _ = jobs.create(session, SPEC, idempotency_key=None, now=now)
    made = attempts.make(session, job.id, keys=KEYS, session_name="s", reason="", now=now)
    assert made is not None
    return made.id


def post(session: Session, attempt: str, told: UplinkBatch) -> None:
    row, job = attempts.lock_with(session, attempt)
    ingest(session, row, job, told, max_bytes=2**62, now=datetime.now(UTC))


async def writer(database: Database, until: float, took: list[float]) -> None:
    attempt, n = await database.write(start), 0
    while time.perf_counter() < until:
        told = batch(n)
        began = time.perf_counter()
        await database.write(post, attempt, told)
        took.append(time.perf_counter() - began)
        n += 1


async def measure(folder: Path, writers: int, seconds: float, level: str, group: int) -> tuple[float, ...]:
    """Return batches a second, the median and the 99th percentile of one in milliseconds, and commits a batch: each is a sync."""
    transactions._GROUP = group
    database = Database(f"sqlite:///{folder / f'{level}-{group}-{writers}.db'}")
    event.listen(database._writing, "connect", _synchronous(level))
    database.migrate()
    commits: list[Any] = []
    event.listen(database._writing, "commit", commits.append)
    took: list[float] = []
    try:
        await asyncio.gather(*(writer(database, time.perf_counter() + seconds, took) for _ in range(writers)))
    finally:
        database.close()
    took.sort()
    ends = statistics.median(took) * 1e3, took[int(len(took) * 0.99)] * 1e3
    return len(took) / seconds, *ends, len(commits) / len(took)


def _synchronous(level: str) -> Callable[[sqlite3.Connection, Any], None]:
    def prepare(connection: sqlite3.Connection, _: Any) -> None:
        connection.execute(f"PRAGMA synchronous={level}")

    return prepare


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dir", type=Path, help="on the disk that is meant; default: the temporary folder's")
    parser.add_argument("--seconds", type=float, default=5.0)
    chosen = parser.parse_args()
    print(
        f"{'sync':>7} {'commits':>7} {'writers':>7} {'batches/s':>10} {'p50 ms':>8} {'p99 ms':>8} {'commits/batch':>13}"
    )
    with tempfile.TemporaryDirectory(dir=chosen.dir) as folder:
        for level, group, name in (("NORMAL", 1, "alone"), ("FULL", 1, "alone"), ("FULL", 32, "group")):
            for writers in (1, 10, 50):
                each, p50, p99, commits = asyncio.run(measure(Path(folder), writers, chosen.seconds, level, group))
                print(
                    f"{level:>7} {name:>7} {writers:>7} {each:>10.0f} {p50:>8.2f} {p99:>8.2f} {commits:>13.2f}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
