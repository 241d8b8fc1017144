"""The database itself: readers wait for no writer, what is committed is on disk, and a newer version's is used or refused."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import event, text
from sqlalchemy.orm import Session

from surefoot.spec import JobSpec
from surefoot_service.errors import ConflictError
from surefoot_service.parts import Service
from surefoot_service.settings import Settings
from surefoot_service.store import database as store
from surefoot_service.store import jobs, shown
from surefoot_service.store.database import Database, StoreAwayError
from surefoot_service.store.revisions import SchemaTooNewError
from surefoot_service.store.tables import PackageRow

from .helpers import LIMIT_S, Attempt, make_row

SPEC = JobSpec(entrypoint="train:train", package="0" * 64, batch_size=8)


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'surefoot.db'}"


@pytest.fixture
def database(url: str) -> Iterator[Database]:
    made = Database(url)
    made.migrate()
    yield made
    made.close()


def add(session: Session, name: str) -> str:
    session.add(PackageRow(sha256=name * 64, bytes=1, created_at=datetime.now(UTC)))
    session.flush()
    return name


def count(session: Session) -> int:
    return int(session.scalar(text("SELECT count(*) FROM packages")) or 0)


# ---- readers and writers


async def test_readers_wait_for_no_writer(database: Database) -> None:
    """Twice as many writers as there ever were threads stand in line behind one that does not end."""
    held, go = threading.Event(), threading.Event()

    def stands(session: Session) -> None:
        add(session, "a")
        held.set()
        assert go.wait(LIMIT_S)

    writing = asyncio.create_task(database.write(stands))
    assert await asyncio.to_thread(held.wait, LIMIT_S)
    behind = [asyncio.create_task(database.write(add, name)) for name in "bcdefghijklmnopq"]
    try:
        async with asyncio.timeout(LIMIT_S):
            assert await asyncio.gather(*(database.read(count) for _ in range(50))) == [0] * 50
        assert not writing.done()
    finally:
        go.set()
    await asyncio.gather(writing, *behind)
    assert await database.read(count) == 17


async def test_requests_are_answered_while_another_process_writes(
    service: Service, settings: Settings, client: httpx.AsyncClient, attempt: Attempt
) -> None:
    """The harm that was seen: a get that took ten seconds behind uplinks that waited for a lock."""
    await attempt.uplink(rows=[make_row(0)])
    with closing(sqlite3.connect(settings.data / "surefoot.db")) as other:
        other.execute("BEGIN IMMEDIATE")
        told = [asyncio.create_task(attempt.uplink(rows=[make_row(n)])) for n in range(1, 17)]
        async with asyncio.timeout(5):  # writers give up after 10
            for _ in range(10):
                assert (await client.get(f"/v1/jobs/{attempt.job}")).json()["steps_done"] == 1
                assert (await client.get("/v1/jobs")).status_code == 200
        assert not any(task.done() for task in told)
        other.execute("ROLLBACK")
    assert {answer.status_code for answer in await asyncio.gather(*told)} == {200}


async def test_a_line_that_is_too_long_is_refused(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "_MOST_WAITING", 3)
    held, go = threading.Event(), threading.Event()
    stands = asyncio.create_task(database.write(lambda _: (held.set(), go.wait(LIMIT_S))))
    assert await asyncio.to_thread(held.wait, LIMIT_S)
    behind = [asyncio.create_task(database.write(add, name)) for name in "ab"]
    await asyncio.sleep(0)
    with pytest.raises(StoreAwayError, match="3 writes waiting"):
        await database.write(add, "c")
    assert await database.read(count) == 0
    go.set()
    await asyncio.gather(stands, *behind)
    assert await database.read(count) == 2


async def test_a_read_cannot_write(database: Database) -> None:
    with pytest.raises(StoreAwayError, match="readonly"):
        await database.read(add, "a")


# ---- what is committed


async def test_what_is_committed_is_synced(database: Database) -> None:
    def level(session: Session) -> Any:
        return session.scalar(text("PRAGMA synchronous")), session.scalar(text("PRAGMA journal_mode"))

    assert await database.write(level) == (2, "wal")


async def test_who_waits_together_is_synced_together_and_fails_alone(database: Database) -> None:
    commits: list[Any] = []
    event.listen(database._writing, "commit", commits.append)
    held, go = threading.Event(), threading.Event()
    first = asyncio.create_task(database.write(lambda _: (held.set(), go.wait(LIMIT_S))))
    assert await asyncio.to_thread(held.wait, LIMIT_S)

    def wrong(session: Session) -> None:
        add(session, "x")
        raise ConflictError("no")

    def doubled(session: Session) -> None:
        session.execute(text("INSERT INTO packages VALUES ('y', 1, '2026-01-01'), ('y', 1, '2026-01-01')"))

    good = [asyncio.create_task(database.write(add, name)) for name in "abcdefgh"]
    bad = [asyncio.create_task(database.write(function)) for function in (wrong, doubled)]
    later = asyncio.create_task(database.write(add, "i"))
    await asyncio.sleep(0)
    go.set()
    assert await asyncio.gather(*good, later) == [*"abcdefgh", "i"]
    errors = await asyncio.gather(*bad, return_exceptions=True)
    assert [type(error).__name__ for error in errors] == ["ConflictError", "IntegrityError"]
    await first
    assert len(commits) == 2  # the first one's, and one for all that waited
    assert await database.read(count) == 9


async def test_what_the_database_throws_back_does_not_take_the_others_along(database: Database) -> None:
    held, go = threading.Event(), threading.Event()
    first = asyncio.create_task(database.write(lambda _: (held.set(), go.wait(LIMIT_S))))
    assert await asyncio.to_thread(held.wait, LIMIT_S)

    def thrown_back(session: Session) -> None:
        session.execute(text("INSERT INTO no_such_table VALUES (1)"))

    tasks = [asyncio.create_task(database.write(add, name)) for name in "ab"]
    bad = asyncio.create_task(database.write(thrown_back))
    tasks.append(asyncio.create_task(database.write(add, "c")))
    await asyncio.sleep(0)
    go.set()
    assert await asyncio.gather(*tasks) == ["a", "b", "c"]
    with pytest.raises(StoreAwayError, match="no such table"):
        await bad
    await first
    assert await database.read(count) == 3


async def test_who_does_not_wait_any_more_is_not_written(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "_ANSWER_S", 0.1)
    held, go = threading.Event(), threading.Event()
    first = asyncio.create_task(database.write(lambda _: (held.set(), go.wait(LIMIT_S))))
    assert await asyncio.to_thread(held.wait, LIMIT_S)
    with pytest.raises(StoreAwayError, match="has not answered"):
        await database.write(add, "a")
    go.set()
    await asyncio.gather(first, return_exceptions=True)
    monkeypatch.setattr(store, "_ANSWER_S", LIMIT_S)
    await database.write(add, "b")
    assert await database.read(count) == 1


# ---- another version's


async def newer(database: Database, *changes: str) -> None:
    """As a newer version's migration leaves it."""

    def change(session: Session) -> None:
        for sql in ("UPDATE alembic_version SET version_num = '9999'", *changes):
            session.execute(text(sql))

    await database.write(change)


COMPATIBLE = (
    "ALTER TABLE jobs ADD COLUMN of_a_newer_version TEXT",
    "ALTER TABLE jobs ADD COLUMN priority INTEGER NOT NULL DEFAULT 0",
    "CREATE TABLE of_a_newer_version (n INTEGER PRIMARY KEY, job TEXT REFERENCES jobs (id))",
)


async def test_the_version_before_goes_on_with_a_newer_database(url: str, database: Database) -> None:
    now = datetime.now(UTC)
    await database.write(add, "0")
    old, _ = await database.write(jobs.create, SPEC, idempotency_key=None, now=now)
    await newer(database, *COMPATIBLE)
    again = Database(url)
    try:
        again.migrate()
        assert (await again.read(jobs.see, old.id)).id == old.id
        made, new = await again.write(jobs.create, SPEC, idempotency_key="k", now=now)
        assert new
        shown_jobs = json.loads(await again.read(shown.jobs_json, state=None, limit=10))
        assert len(shown_jobs["jobs"]) == 2
        assert (await again.read(jobs.see, made.id)).unreadable == ""
    finally:
        again.close()


INCOMPATIBLE = {
    "ALTER TABLE jobs RENAME COLUMN steps_done TO rows_stored": "jobs has no column steps_done",
    "ALTER TABLE commands RENAME TO orders": "there is no table commands",
}


@pytest.mark.parametrize(("change", "why"), INCOMPATIBLE.items())
async def test_one_that_it_cannot_use_is_refused_with_the_reason(
    change: str, why: str, url: str, database: Database
) -> None:
    await newer(database, change)
    again = Database(url)
    try:
        with pytest.raises(SchemaTooNewError, match=why) as refused:
            again.migrate()
        assert "revision 9999" in str(refused.value)
        assert "Run that version" in str(refused.value)
    finally:
        again.close()


async def test_a_column_that_must_be_filled_is_refused(url: str, database: Database) -> None:
    remade = "CREATE TABLE packages (sha256 TEXT PRIMARY KEY, bytes INTEGER NOT NULL, created_at TEXT NOT NULL, owner TEXT NOT NULL)"
    await newer(database, "DROP TABLE packages", remade)
    again = Database(url)
    try:
        with pytest.raises(SchemaTooNewError, match=r"packages\.owner must have a value"):
            again.migrate()
    finally:
        again.close()
