"""Whatever is put into any column of SQLite behind everybody's back: all can be read, the job ends, the loops pass."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from datetime import timedelta
from typing import Any

import httpx
import pytest
from sqlalchemy import text
from sqlalchemy.dialects import sqlite
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from surefoot.events import EventKind
from surefoot.spec import JobState
from surefoot.views import AuditAction, JobView
from surefoot_service.parts import Service
from surefoot_service.store import audit, overview, packages, removal
from surefoot_service.store.columns import NoNumber, Whole
from surefoot_service.store.tables import Base

from .helpers import Attempt, make_event, make_row, start_attempt
from .test_reconciler import state
from .test_unreadable import first_messages, spoil

TABLES = sorted(table.name for table in Base.metadata.sorted_tables)
# by these, requests name what they are about; and a job that is marked as deleted is deleted
_NAMES = {("jobs", "id"), ("attempts", "id"), ("packages", "sha256"), ("jobs", "deleted_at")}


def spoilt(table: str) -> Iterator[tuple[str, Any]]:
    """Yield the table's columns, each with a value that it is not made for."""
    for column in Base.metadata.tables[table].columns:
        if (table, column.name) not in _NAMES:
            yield column.name, "many" if isinstance(column.type, Whole) else b"\xff\xfe"


@pytest.mark.parametrize("table", TABLES)
async def test_no_column_stops_anything(
    table: str,
    service: Service,
    client: httpx.AsyncClient,
    anonymous: httpx.AsyncClient,
    spec: dict[str, Any],
) -> None:
    for column, value in spoilt(table):
        attempt = await furnished(service, client, anonymous, spec)
        try:
            await spoil(service, f"UPDATE {table} SET {column} = :value", value=value)
        except IntegrityError:
            continue  # a reference, which SQLite checks, or a number of rows
        wrong = await everything(service, client, attempt, spec)
        assert not wrong, f"{table}.{column}: {wrong}"


async def furnished(
    service: Service, client: httpx.AsyncClient, anonymous: httpx.AsyncClient, spec: dict[str, Any]
) -> Attempt:
    """An empty database, and in it a job that trains, of which there is something in every table."""
    size = service.packages.path(spec["package"]).stat().st_size

    def emptied(session: Session) -> None:
        for table in reversed(Base.metadata.sorted_tables):
            session.execute(table.delete())
        packages.add(session, spec["package"], size, now=service.now())
        audit.note(session, AuditAction.JOB_DELETED, "x", by="me", now=service.now())

    await service.database.write(emptied)
    job = (await client.post("/v1/jobs", json=spec)).json()["id"]
    attempt = await start_attempt(service, anonymous, job)
    await attempt.claim()
    url = f"{service.settings.checkpoint_place}/{job}/1"
    told = [state(1, "running"), make_event(2, EventKind.CHECKPOINT, url=url, step=1)]
    assert (await attempt.uplink(events=told, rows=[make_row(0), make_row(1)])).status_code == 200
    assert (await client.post(f"/v1/jobs/{job}/checkpoint")).status_code == 200
    return attempt


async def everything(service: Service, client: httpx.AsyncClient, attempt: Attempt, spec: dict[str, Any]) -> list[str]:
    """Do what is done with jobs; return what failed."""
    job, path, wrong = attempt.job, f"/v1/jobs/{attempt.job}", list[str]()
    tomorrow = service.now() + timedelta(days=1)

    async def step(name: str, what: Callable[[], Awaitable[object]]) -> None:
        try:
            answer = await what()
        except Exception as error:  # noqa: BLE001  it is told
            wrong.append(f"{name} {error!r}"[:200])
        else:
            if isinstance(answer, httpx.Response) and answer.status_code >= 500:
                wrong.append(f"{name} {answer.status_code}")

    read = service.database.read
    # the loops first: what is written may mend what they would read
    await step("look", lambda: read(overview.look, service.now()))
    await step("due", lambda: read(removal.due, before=tomorrow, keep=0, limit=10))
    await step("unreferenced", lambda: read(packages.unreferenced, tomorrow))
    await step("beginners", lambda: read(removal.beginners, "other"))
    for part in ("/v1/jobs", "/v1/audit", path, *(f"{path}/{p}" for p in ("events", "ledger", "checkpoints", "model"))):
        await step(part, lambda part=part: client.get(part))  # type: ignore[misc]
    await step("restore", lambda: client.post("/v1/jobs", json=spec | {"restore": job}))
    await step("stream", lambda: drained(service, job))
    await step("commands", attempt.commands)
    told = make_event(3, EventKind.GENERATION, generation=2, trainers=2)
    await step("uplink", lambda: attempt.uplink(events=[told], rows=[make_row(2)]))
    await step("resize", lambda: client.post(f"{path}/resize", json={"trainers": 1}))
    await step("cancel", lambda: client.post(f"{path}/cancel"))
    await step("the last uplink", lambda: attempt.uplink(events=[state(4, "cancelled")]))
    await step("the end", lambda: ended(service, client, attempt))
    await step("delete", lambda: client.delete(path))
    await step("leftovers", lambda: read(removal.leftovers))
    return wrong


async def drained(service: Service, job: str) -> None:
    assert [m async for m in first_messages(service, job)]


async def ended(service: Service, client: httpx.AsyncClient, attempt: Attempt) -> None:
    """Once the reconciler has taken it off the cluster at the latest."""

    def fenced(session: Session) -> None:
        session.execute(text("UPDATE attempts SET fenced_at = created_at WHERE fenced_at IS NULL"))

    await service.database.write(fenced)
    await service.database.write(overview.settle, attempt.name, note="", now=service.now())
    view = JobView.model_validate_json((await client.get(f"/v1/jobs/{attempt.job}")).content)
    known = isinstance(view.state, JobState)
    assert view.ended or not known, view


def test_a_number_that_is_none_is_told() -> None:
    """0 stands for it, and whoever is shown the job is told so."""
    read = Whole().result_processor(sqlite.dialect(), None)
    assert read is not None
    for value in ("many", b"1", float("nan"), float("inf"), ""):
        found = read(value)
        assert (found, isinstance(found, NoNumber)) == (0, True)
    assert (read(2**62), read(None), read(3.7)) == (2**62, None, 3)


async def test_a_job_with_such_a_number_says_so(service: Service, client: httpx.AsyncClient, job: str) -> None:
    await service.database.write(lambda s: s.execute(text("UPDATE jobs SET steps_done = 'many'")) and None)
    for found in ((await client.get(f"/v1/jobs/{job}")).json(), (await client.get("/v1/jobs")).json()["jobs"][0]):
        assert (found["steps_done"], found["unreadable"]) == (0, "what is stored of it is no number: steps_done")
