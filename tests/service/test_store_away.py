"""The database goes away for a while, for real: requests are told to come back, the loop mends, nothing is lost or doubled."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from surefoot.events import EventKind
from surefoot.spec import JobState
from surefoot_service.parts import Service
from surefoot_service.settings import Settings
from surefoot_service.store import database as store
from surefoot_service.store import overview
from surefoot_service.wakeups import RECONCILER

from .fake_ray import FakeRay
from .helpers import LIMIT_S, Attempt, make_event, make_row, until
from .postgres import Postgres
from .test_reconciler import launched, running, state

on_postgres = pytest.mark.parametrize("database_url", ["postgres"], indirect=True)


@contextmanager
def stopped(postgres: Postgres) -> Iterator[None]:
    """The server crashes, and is started again at the end."""
    postgres.stop()
    try:
        yield
    finally:
        postgres.start()


@contextmanager
def frozen(postgres: Postgres) -> Iterator[None]:
    postgres.freeze()
    try:
        yield
    finally:
        postgres.thaw()


def assert_told_to_come_back(answer: httpx.Response) -> None:
    assert (answer.status_code, answer.headers["content-type"]) == (503, "application/problem+json"), answer.text
    assert int(answer.headers["retry-after"]) >= 1
    assert answer.json()["detail"].startswith("the database")


# ---- Postgres


@on_postgres
async def test_requests_while_postgres_is_stopped_and_after(
    postgres: Postgres, client: httpx.AsyncClient, attempt: Attempt
) -> None:
    await attempt.uplink(events=[state(1, "running")], rows=[make_row(0)])
    batch = {"events": [make_event(2, EventKind.WARNING, message="x")], "rows": [make_row(1), make_row(2)]}
    with stopped(postgres):
        assert_told_to_come_back(await attempt.uplink(**batch))
        assert_told_to_come_back(await attempt.commands())
        assert_told_to_come_back(await client.get(f"/v1/jobs/{attempt.job}"))
        assert_told_to_come_back(await client.post(f"/v1/jobs/{attempt.job}/pause"))
        assert (await client.get("/v1/health")).status_code == 200
    again = await attempt.uplink(**batch)
    assert again.json() == {"events": {"supervisor-1": 2}, "rows_below": 3}
    told = (await client.get(f"/v1/jobs/{attempt.job}/events")).json()["events"]
    assert [e["kind"] for e in told if e["source"] != "service"] == ["state", "warning"]
    assert (await client.get(f"/v1/jobs/{attempt.job}")).json()["state"] == "running"  # the pause was not taken


@on_postgres
async def test_a_postgres_that_stands_still_holds_nobody_for_ever(
    postgres: Postgres, client: httpx.AsyncClient, attempt: Attempt, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "_ANSWER_S", 0.5)
    with frozen(postgres):
        assert_told_to_come_back(await attempt.uplink(rows=[make_row(0)]))
        assert_told_to_come_back(await client.get(f"/v1/jobs/{attempt.job}"))
    monkeypatch.setattr(store, "_ANSWER_S", 30.0)
    # whether the first one was done meanwhile or not
    assert (await attempt.uplink(rows=[make_row(0), make_row(1)])).json()["rows_below"] == 2


@pytest.fixture
def loop_met(service: Service, monkeypatch: pytest.MonkeyPatch) -> asyncio.Event:
    """Set once the loop has found the database away."""
    met, read = asyncio.Event(), service.database.read

    async def noted(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        try:
            return await read(function, *args, **kwargs)
        except store.StoreAwayError:
            if function is overview.look:
                met.set()
            raise

    monkeypatch.setattr(service.database, "read", noted)
    return met


@on_postgres
async def test_the_loop_goes_on_where_it_was_once_postgres_is_back(
    postgres: Postgres,
    service: Service,
    fake: FakeRay,
    anonymous: httpx.AsyncClient,
    job: str,
    loop_met: asyncio.Event,
) -> None:
    async with running(service, fake):
        attempt = await launched(fake, anonymous, job)
        await attempt.claim()
        await attempt.uplink(events=[state(1, "running")])
        with stopped(postgres):
            fake.session, fake.submissions = "session_2", {}
            service.wakeups.wake(RECONCILER)
            assert_told_to_come_back(await attempt.uplink(rows=[make_row(0)]))
            await asyncio.wait_for(loop_met.wait(), LIMIT_S)
        service.wakeups.wake(RECONCILER)
        second = await launched(fake, anonymous, job, 2)
        assert (await second.claim()).status_code == 200
        view = await until(service, job, lambda v: v.attempts == 2)
        assert view.state is JobState.STARTING


# ---- SQLite


async def test_a_locked_sqlite(
    client: httpx.AsyncClient, settings: Settings, attempt: Attempt, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "_ANSWER_S", 0.5)
    with closing(sqlite3.connect(settings.data / "surefoot.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        assert_told_to_come_back(await attempt.uplink(rows=[make_row(0)]))
        # whoever only reads is not held up
        assert (await client.get(f"/v1/jobs/{attempt.job}")).json()["steps_done"] == 0
        other.execute("ROLLBACK")
    monkeypatch.setattr(store, "_ANSWER_S", 30.0)
    assert (await attempt.uplink(rows=[make_row(0)])).json()["rows_below"] == 1


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)], capture_output=True)
    if mounted.returncode:
        message = f"this machine does not let a test mount a tmpfs: {mounted.stderr.decode().strip()}"
        pytest.fail(message) if os.environ.get("SUREFOOT_CI") else pytest.skip(message)
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def fill(file: Path) -> None:
    """Grow the file until nothing more fits beside it."""
    with file.open("wb", buffering=0) as growing, contextlib.suppress(OSError):
        while growing.write(b"\0" * 4096):
            pass


class TestFullDisk:
    @pytest.fixture
    def settings(self, small_disk: Path) -> Settings:
        return Settings(data=small_disk / "data", max_body_bytes=1_000_000)

    async def test_a_full_disk(self, client: httpx.AsyncClient, small_disk: Path, attempt: Attempt) -> None:
        await attempt.uplink(events=[state(1, "running")], rows=[make_row(0)])
        filler = small_disk / "filler"
        fill(filler)
        rows = [make_row(step) for step in range(1, 2000)]
        assert_told_to_come_back(await attempt.uplink(rows=rows))
        filler.unlink()
        assert (await attempt.uplink(rows=rows)).json()["rows_below"] == 2000
        assert (await client.get(f"/v1/jobs/{attempt.job}")).json()["state"] == "running"
