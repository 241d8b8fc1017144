"""Deletion: a job is there whole or not at all, wherever a crash falls; only its own goes; and what went is told for good."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from surefoot.events import EventKind
from surefoot_service.checkpoints.places import PROTOCOLS
from surefoot_service.checkpoints.removal import KeptError, is_below, remove_place
from surefoot_service.parts import Service
from surefoot_service.reconciler import retention
from surefoot_service.reconciler.retention import Housekeeper
from surefoot_service.store import packages, removal
from surefoot_service.store.tables import AttemptRow, Base, JobRow, PackageRow
from surefoot_service.waiting import BusyError

from .helpers import LIMIT_S, TRAIN, ZIP, Attempt, make_event, make_row, make_zip, start_attempt

FILES = ("step-000000003/manifest.json", "step-000000003/a.safetensors", "model/model.safetensors", "attempt")


@pytest.fixture(autouse=True)
def _no_housekeeper_but_the_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("surefoot_service.rest.app.housekeeping", lambda _service: contextlib.nullcontext())


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "checkpoints"


@pytest.fixture
def spec_more(place: Path) -> dict[str, Any]:
    return {"checkpoint": {"url": str(place)}}


async def end(attempt: Attempt, *, rows: int = 3, place: Path | None = None) -> str:
    """Have the job train, save and succeed; return it."""
    events = [make_event(1, EventKind.STATE, state="running")]
    if place is not None:
        own = place / attempt.job
        for name in FILES:
            (own / name).parent.mkdir(parents=True, exist_ok=True)
            (own / name).write_text("x")
        events.append(make_event(2, EventKind.CHECKPOINT, step=3, url=f"{own}/step-000000003"))
    events.append(make_event(len(events) + 1, EventKind.STATE, state="succeeded"))
    answer = await attempt.uplink(events=events, rows=[make_row(step) for step in range(rows)])
    assert answer.is_success, answer.text
    return attempt.job


async def keep_house(service: Service, *, sweep: bool = False) -> None:
    """As a service does that was just started, until nothing is left to do."""
    keeper = Housekeeper(service)
    async with asyncio.timeout(LIMIT_S):
        while await keeper.once(sweep=sweep) is not None:
            await asyncio.gather(*keeper._removing.values(), return_exceptions=True)
            await asyncio.sleep(0.01)


def rows_of(session: Session, job: str) -> dict[str, int]:
    """How many rows of each table are the job's; tables without any are left out."""
    counts = {JobRow.__tablename__: session.scalar(select(func.count()).where(JobRow.id == job))}
    for table in Base.metadata.sorted_tables:
        if "job" in table.columns:
            counts[table.name] = session.scalar(select(func.count()).select_from(table).where(table.c.job == job))
    return {name: count for name, count in counts.items() if count}


async def audited(client: httpx.AsyncClient, **params: Any) -> list[tuple[str, str]]:
    entries = (await client.get("/v1/audit", params=params)).json()["entries"]
    return [(entry["action"], entry["subject"]) for entry in entries]


# ---- DELETE


async def test_an_ended_job_goes_with_all_that_refers_to_it(
    client: httpx.AsyncClient, service: Service, attempt: Attempt
) -> None:
    await client.post(f"/v1/jobs/{attempt.job}/resize", json={"trainers": 3})
    job = await end(attempt)
    before = await service.database.read(rows_of, job)
    assert {"jobs", "attempts", "events", "ledger", "commands"} <= set(before), "nothing to be removed is tested here"
    answer = await client.delete(f"/v1/jobs/{job}")
    assert (answer.status_code, answer.content) == (204, b"")
    assert await service.database.read(rows_of, job) == {}
    for path in ("", "/events", "/ledger", "/stream", "/checkpoints", "/model"):
        assert (await client.get(f"/v1/jobs/{job}{path}")).status_code == 404
    assert (await client.get("/v1/jobs")).json()["jobs"] == []
    [entry] = (await client.get("/v1/audit")).json()["entries"]
    assert (entry["action"], entry["subject"], entry["by"]) == ("job_deleted", job, "the user")
    assert "succeeded" in entry["detail"]


def test_every_table_that_depends_on_jobs_refers_to_them_itself() -> None:
    """Or its rows would be left: `removal.history_tables` finds tables by their own reference."""
    depends = {"jobs"}
    for table in Base.metadata.sorted_tables:
        if any(key.column.table.name in depends for key in table.foreign_keys):
            depends.add(table.name)
    assert {t.name for t in removal.history_tables()} == depends - {"jobs", "attempts"}


async def test_deleting_again_changes_nothing_and_another_is_unknown(
    client: httpx.AsyncClient, attempt: Attempt
) -> None:
    job = await end(attempt)
    for _ in range(2):
        assert (await client.delete(f"/v1/jobs/{job}")).status_code == 204
    assert await audited(client) == [("job_deleted", job)]
    assert (await client.delete("/v1/jobs/never-was")).status_code == 404


async def test_a_job_that_goes_on_is_not_deleted(client: httpx.AsyncClient, attempt: Attempt) -> None:
    answer = await client.delete(f"/v1/jobs/{attempt.job}")
    assert answer.status_code == 409
    assert "cancel it first" in answer.json()["detail"]
    assert (await client.get(f"/v1/jobs/{attempt.job}")).json()["state"] == "starting"
    assert await audited(client) == []


async def test_only_the_user_deletes(anonymous: httpx.AsyncClient, client: httpx.AsyncClient, attempt: Attempt) -> None:
    job = await end(attempt)
    for headers in ({}, attempt.headers):
        assert (await anonymous.delete(f"/v1/jobs/{job}", headers=headers)).status_code == 401
        assert (await anonymous.get("/v1/audit", headers=headers)).status_code == 401
    assert (await client.get(f"/v1/jobs/{job}")).status_code == 200


async def test_the_supervisor_of_a_deleted_job_is_told_that_it_is_over(
    client: httpx.AsyncClient, service: Service, attempt: Attempt
) -> None:
    job = await end(attempt)
    # what still runs on a cluster is taken off it first
    service.cluster.watched = True
    await client.delete(f"/v1/jobs/{job}")
    answers = [await attempt.uplink(rows=[make_row(9)]), await attempt.commands()]
    assert [answer.status_code for answer in answers] == [410, 410]
    assert set(await service.database.read(rows_of, job)) == {"jobs", "attempts"}
    assert (await client.get(f"/v1/jobs/{job}")).status_code == 404
    await service.database.write(_cleaned, attempt.name, service)
    await keep_house(service)
    assert await service.database.read(rows_of, job) == {}
    assert (await attempt.uplink(rows=[make_row(9)])).status_code in (401, 410)


def _cleaned(session: Session, attempt: str, service: Service) -> None:
    row = session.get(AttemptRow, attempt)
    assert row is not None
    row.cleaned_at = service.now()


async def test_a_freed_key_submits_anew(
    client: httpx.AsyncClient, service: Service, anonymous: httpx.AsyncClient, spec: dict[str, Any]
) -> None:
    key = {"Idempotency-Key": "k"}
    first = (await client.post("/v1/jobs", json=spec, headers=key)).json()["id"]
    attempt = await start_attempt(service, anonymous, first)
    await attempt.claim()
    await end(attempt)
    await client.delete(f"/v1/jobs/{first}")
    again = await client.post("/v1/jobs", json=spec, headers=key)
    assert again.status_code == 201
    assert again.json()["id"] != first


async def test_a_history_of_many_pieces_goes_too(
    client: httpx.AsyncClient, service: Service, attempt: Attempt, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(removal, "CHUNK", 7)
    monkeypatch.setattr(retention, "_MOST_CHUNKS", 3)
    job = await end(attempt, rows=100)
    assert (await client.delete(f"/v1/jobs/{job}")).status_code == 204
    assert (await client.get(f"/v1/jobs/{job}/ledger")).status_code == 404
    await keep_house(service)
    assert await service.database.read(rows_of, job) == {}


async def test_the_streams_of_a_deleted_job_end(
    client: httpx.AsyncClient, service: Service, app: FastAPI, attempt: Attempt
) -> None:
    """Over its generator: httpx's ASGI transport gives no part of an answer before its end."""
    from surefoot_service.rest import stream

    await attempt.uplink(events=[make_event(1, EventKind.STATE, state="running")])
    messages = stream.follow(service, attempt.job, stream.Cursor())
    assert b"event: event" in await anext(messages)
    await end(attempt)
    await service.database.write(removal.mark, attempt.job, by="a test", checkpoints=False, now=service.now())
    async with asyncio.timeout(LIMIT_S):
        rest = [message async for message in messages]
    assert not any(b"ledger" in message for message in rest)


async def test_a_page_of_a_ledger_that_is_deleted_meanwhile_is_not_taken_for_the_whole(
    client: httpx.AsyncClient, service: Service, attempt: Attempt, monkeypatch: pytest.MonkeyPatch
) -> None:
    from surefoot_service.rest.routes import history

    monkeypatch.setattr(history, "ROWS_AT_A_TIME", 2)
    job = await end(attempt, rows=9)
    first = await service.database.read(history._some_rows, job, 0, 2)
    pages = history._as_document(history._row_pages(service, job, first, 100))
    begun = await anext(pages)
    assert begun.startswith('{"rows":[')
    await client.delete(f"/v1/jobs/{job}")
    with pytest.raises(Exception, match="there is no job"):
        [page async for page in pages]


# ---- checkpoints


async def test_checkpoints_stay_unless_asked_for(client: httpx.AsyncClient, attempt: Attempt, place: Path) -> None:
    job = await end(attempt, place=place)
    await client.delete(f"/v1/jobs/{job}")
    assert all((place / job / name).exists() for name in FILES)
    assert await audited(client) == [("job_deleted", job)]


async def test_its_own_checkpoints_go_and_nothing_beside(
    client: httpx.AsyncClient, service: Service, attempt: Attempt, place: Path, tmp_path: Path
) -> None:
    job = await end(attempt, place=place)
    others = [place / "other" / "step-000000001" / "manifest.json", place / f"{job}-2" / "x", tmp_path / "mine" / "y"]
    for file in others:
        file.parent.mkdir(parents=True)
        file.write_text("x")
    (place / job / "a link").symlink_to(tmp_path / "mine")
    assert (await client.delete(f"/v1/jobs/{job}?checkpoints=true")).status_code == 204
    assert (await client.get(f"/v1/jobs/{job}")).status_code == 404
    await keep_house(service)
    assert not (place / job).exists()
    assert all(file.exists() for file in others)
    assert await audited(client) == [("job_deleted", job), ("checkpoints_removed", job)]
    assert await service.database.read(rows_of, job) == {}


async def test_what_another_job_begins_from_stays(
    client: httpx.AsyncClient, service: Service, attempt: Attempt, place: Path, spec: dict[str, Any]
) -> None:
    job = await end(attempt, place=place)
    other = (await client.post("/v1/jobs", json=spec | {"restore": job})).json()["id"]
    answer = await client.delete(f"/v1/jobs/{job}?checkpoints=true")
    assert answer.status_code == 409
    assert other in answer.json()["detail"]
    assert (await client.get(f"/v1/jobs/{job}")).status_code == 200
    await client.post(f"/v1/jobs/{other}/cancel")
    assert (await client.delete(f"/v1/jobs/{job}?checkpoints=true")).status_code == 204


@pytest.mark.parametrize("by", ["its path", "a link"])
async def test_what_another_job_comes_to_begin_from_stays(
    client: httpx.AsyncClient, service: Service, attempt: Attempt, place: Path, spec: dict[str, Any], by: str
) -> None:
    """Submitted after the deletion and before the removal, or by a path that does not name the job."""
    job = await end(attempt, place=place)
    link = place / "a-link"
    link.symlink_to(place / job)
    service.cluster.watched = True  # so that nothing is removed yet
    await client.delete(f"/v1/jobs/{job}?checkpoints=true")
    start = place / job if by == "its path" else link
    answer = await client.post("/v1/jobs", json=spec | {"restore": f"{start}/step-000000003"})
    assert answer.status_code == 201, answer.text
    service.cluster.watched = False
    await keep_house(service)
    assert all((place / job / name).exists() for name in FILES)
    assert await audited(client) == [("job_deleted", job), ("checkpoints_kept", job)]
    assert await service.database.read(rows_of, job) == {}


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("/somewhere/other", "own place"),
        ("/somewhere/../job-1", "is no name of a folder"),
        ("relative/job-1", "from the root on"),
        ("http://host/job-1", "not allowed"),
        ("zip::file:///x/job-1", "chain"),
        ("simplecache::s3://bucket/job-1", "chain"),
        ("reference://x::file:///y/job-1", "chain"),
        ("hdfs://host/job-1", "not allowed"),
        ("memory://b/job-1", "not allowed"),
        ("s3://key:secret@bucket/job-1", "bucket"),
        ("s3://bucket/%2e%2e/job-1", "another character"),
        ("s3://bucket//job-1", "is no name"),
        ("s3://bucket/runs*/job-1", "something else"),
        ("/job-1", "own place"),
    ],
)
def test_other_places_are_not_removed(url: str, says: str) -> None:
    with pytest.raises(KeptError, match=says):
        remove_place(url, "job-1", PROTOCOLS)


@pytest.mark.parametrize(
    "start", ["file:///runs//job-1/s", "/runs/x/../job-1/s", "s3://runs/job-1?x", "x::file:///runs/job-1"]
)
def test_what_a_job_begins_from_stays_however_it_is_spelled(start: str) -> None:
    """What could mean the place may be the place."""
    assert is_below("/runs/job-1", start)
    assert not is_below("/runs/job-1", start.replace("job-1", "job-2"))


def test_a_place_that_is_a_link_is_not_removed(tmp_path: Path) -> None:
    (tmp_path / "users").mkdir()
    (tmp_path / "users" / "file").write_text("x")
    (tmp_path / "job-1").symlink_to(tmp_path / "users")
    with pytest.raises(KeptError, match="no folder of its own"):
        remove_place(str(tmp_path / "job-1"), "job-1", PROTOCOLS)
    assert (tmp_path / "users" / "file").exists()


def test_a_remote_place_goes_by_itself() -> None:
    import fsspec

    system = fsspec.filesystem("memory")
    for path in ("/b/job-1/step-1/manifest.json", "/b/job-1/step-1/x", "/b/job-12/x", "/b/x"):
        system.pipe(path, b"x")
    assert remove_place("memory://b/job-1", "job-1", ("memory",)) == 2
    assert sorted(system.find("/b")) == ["/b/job-12/x", "/b/x"]
    assert remove_place("memory://b/job-1", "job-1", ("memory",)) == 0
    system.rm("/b", recursive=True)


async def test_storage_that_fails_is_tried_again_and_then_told(
    client: httpx.AsyncClient, service: Service, attempt: Attempt, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = await end(attempt, place=place)
    tried = []

    def away(*_: Any) -> int:
        tried.append(1)
        raise OSError("the storage is away")

    monkeypatch.setattr(retention, "remove_place", away)
    monkeypatch.setattr(retention, "wait_exponential", lambda **_: lambda _state: 0)
    await client.delete(f"/v1/jobs/{job}?checkpoints=true")
    await keep_house(service)
    assert len(tried) >= 5
    [entry] = [e for e in (await client.get("/v1/audit")).json()["entries"] if e["action"] == "checkpoints_kept"]
    assert str(place / job) in entry["detail"]
    assert "the storage is away" in entry["detail"]


async def test_storage_that_hangs_holds_up_nobody(
    client: httpx.AsyncClient, service: Service, attempt: Attempt, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = await end(attempt, place=place)
    hangs, began = threading.Event(), threading.Event()

    def hang(*_: Any) -> int:
        began.set()
        hangs.wait(LIMIT_S)
        return 0

    monkeypatch.setattr(retention, "remove_place", hang)
    await client.delete(f"/v1/jobs/{job}?checkpoints=true")
    keeper = Housekeeper(service)
    for _ in range(3):
        async with asyncio.timeout(LIMIT_S):
            await keeper.once(sweep=True)
    assert await asyncio.to_thread(began.wait, LIMIT_S)
    assert (await client.get(f"/v1/jobs/{job}")).status_code == 404
    hangs.set()
    await keep_house(service)


async def test_a_service_removes_by_itself_what_is_left(
    client: httpx.AsyncClient, service: Service, attempt: Attempt, place: Path
) -> None:
    """With the housekeeper of the app, woken by the deletion."""
    job = await end(attempt, place=place)
    async with retention.housekeeping(service):
        await client.delete(f"/v1/jobs/{job}?checkpoints=true")
        async with asyncio.timeout(LIMIT_S):
            while await service.database.read(rows_of, job):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
    assert not (place / job).exists()


# ---- a crash at each line


class CrashError(BaseException):
    """The process ends here."""


class Crashing:
    """Stands for the database, or a function, and crashes before or after its n-th call."""

    def __init__(self, real: Any, at: int, *, after: bool) -> None:
        self.real, self.left, self.after, self.fired = real, at, after, False

    def _crash(self, here: bool) -> None:
        if here:
            self.fired = True
            raise CrashError

    async def call(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        self.left -= 1
        self._crash(self.left == 0 and not self.after)
        result = await function(*args, **kwargs)
        self._crash(self.left == 0 and self.after)
        return result

    async def read(self, *args: Any, **kwargs: Any) -> Any:
        return await self.call(self.real.read, *args, **kwargs)

    async def write(self, *args: Any, **kwargs: Any) -> Any:
        return await self.call(self.real.write, *args, **kwargs)


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("at", range(1, 9))
async def test_a_crash_at_any_transaction_leaves_the_job_or_no_job(
    client: httpx.AsyncClient, service: Service, attempt: Attempt, place: Path, at: int, after: bool
) -> None:
    job = await end(attempt, place=place)
    whole = await service.database.read(rows_of, job)
    crashing = Crashing(service.database, at, after=after)
    doomed = replace(service, database=crashing)  # type: ignore[arg-type]
    try:
        await retention.delete_job(doomed, job, by="a test", checkpoints=True)
        keeper = Housekeeper(doomed)
        while await keeper.once(sweep=False) is not None:
            for task in list(keeper._removing.values()):
                await task
    except CrashError:
        pass
    await _is_there_or_not(client, service, job, place, whole)
    assert crashing.fired or at > 6, "there are fewer transactions than this test thinks"


@pytest.mark.parametrize("at", range(1, 5))
async def test_a_crash_at_any_file_leaves_no_checkpoint_that_is_half_there(
    client: httpx.AsyncClient, service: Service, attempt: Attempt, place: Path, at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = await end(attempt, place=place)
    whole = await service.database.read(rows_of, job)
    left = at
    unlink = os.unlink

    def crashes(path: Any, **options: Any) -> None:
        nonlocal left
        left -= 1
        if left == 0:
            raise CrashError
        unlink(path, **options)

    with monkeypatch.context() as patch:
        patch.setattr(os, "unlink", crashes)
        await client.delete(f"/v1/jobs/{job}?checkpoints=true")
        with pytest.raises(CrashError):
            remove_place(str(place / job), job, PROTOCOLS)
    files = {str(f.relative_to(place / job)) for f in (place / job).rglob("*") if f.is_file()}
    if files != set(FILES):
        assert "step-000000003/manifest.json" not in files, "what is half removed looks whole"
    await _is_there_or_not(client, service, job, place, whole)


async def _is_there_or_not(
    client: httpx.AsyncClient, service: Service, job: str, place: Path, whole: dict[str, int]
) -> None:
    """At once, and after the next start of a service."""
    for _ in range(2):
        seen = (await client.get(f"/v1/jobs/{job}")).status_code
        entries = await audited(client, subject=job)
        if seen == 200:
            assert await service.database.read(rows_of, job) == whole
            assert len((await client.get(f"/v1/jobs/{job}/ledger")).json()["rows"]) == whole["ledger"]
            assert all((place / job / name).exists() for name in FILES)
            assert entries == []
        else:
            assert seen == 404
            assert (await client.get(f"/v1/jobs/{job}/events")).status_code == 404
            assert entries[0] == ("job_deleted", job)
        await keep_house(service)
    if seen == 404:
        assert await service.database.read(rows_of, job) == {}
        assert not (place / job).exists()
        assert entries == [("job_deleted", job), ("checkpoints_removed", job)]


# ---- retention and packages


async def ended_jobs(
    service: Service, client: httpx.AsyncClient, anonymous: httpx.AsyncClient, spec: dict[str, Any], n: int
) -> list[str]:
    jobs = []
    for _ in range(n):
        job = (await client.post("/v1/jobs", json=spec)).json()["id"]
        attempt = await start_attempt(service, anonymous, job)
        await attempt.claim()
        jobs.append(await end(attempt))
    return jobs


def with_settings(service: Service, *, later: timedelta = timedelta(0), **settings: Any) -> Service:
    changed = service.settings.model_copy(update=settings)
    return replace(service, settings=changed, now=lambda: service.now() + later)


async def shown(client: httpx.AsyncClient) -> list[str]:
    return [job["id"] for job in (await client.get("/v1/jobs")).json()["jobs"]]


async def test_nothing_goes_by_itself_unless_it_is_told_to(
    service: Service, client: httpx.AsyncClient, anonymous: httpx.AsyncClient, spec: dict[str, Any]
) -> None:
    jobs = await ended_jobs(service, client, anonymous, spec, 2)
    await keep_house(with_settings(service, later=timedelta(days=10_000)), sweep=True)
    assert await shown(client) == jobs[::-1]


async def test_retention_by_count_keeps_the_newest_and_all_that_go_on(
    service: Service,
    client: httpx.AsyncClient,
    anonymous: httpx.AsyncClient,
    spec: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(retention, "MOST_JOBS", 2)
    going_on = (await client.post("/v1/jobs", json=spec)).json()["id"]
    jobs = await ended_jobs(service, client, anonymous, spec, 6)
    await keep_house(with_settings(service, keep_ended_jobs=1), sweep=True)
    assert await shown(client) == [jobs[-1], going_on]
    entries = (await client.get("/v1/audit")).json()["entries"]
    assert sorted(e["subject"] for e in entries) == sorted(jobs[:-1])
    assert {e["by"] for e in entries} == {"retention: the newest 1 ended jobs stay"}


async def test_retention_by_age(
    service: Service, client: httpx.AsyncClient, anonymous: httpx.AsyncClient, spec: dict[str, Any], place: Path
) -> None:
    jobs = await ended_jobs(service, client, anonymous, spec, 1)
    going_on = (await client.post("/v1/jobs", json=spec)).json()["id"]
    await keep_house(with_settings(service, keep_ended_days=2.0, later=timedelta(days=1.9)), sweep=True)
    assert await shown(client) == [going_on, *jobs]
    await keep_house(with_settings(service, keep_ended_days=2.0, later=timedelta(days=2.1)), sweep=True)
    assert await shown(client) == [going_on]


async def test_packages_without_a_job_go_after_their_grace(
    service: Service, client: httpx.AsyncClient, job: str, package: str
) -> None:
    unused = (await client.post("/v1/packages", content=make_zip({"b.py": TRAIN}), headers=ZIP)).json()["package"]
    await keep_house(with_settings(service, later=timedelta(hours=23)), sweep=True)
    assert (await client.get(f"/v1/packages/{unused}")).status_code == 200
    await keep_house(with_settings(service, later=timedelta(hours=25)), sweep=True)
    assert (await client.get(f"/v1/packages/{unused}")).status_code == 404
    assert not service.packages.path(unused).exists()
    assert (await client.get(f"/v1/packages/{package}")).status_code == 200
    assert service.packages.path(package).exists()
    assert await audited(client) == [("package_removed", unused)]


async def test_an_upload_makes_a_package_new_again(service: Service, client: httpx.AsyncClient, package: str) -> None:
    later = with_settings(service, later=timedelta(hours=25))
    await service.database.write(packages.add, package, 1, now=later.now())
    await keep_house(later, sweep=True)
    assert (await client.get(f"/v1/packages/{package}")).status_code == 200


async def test_a_file_that_comes_while_it_is_removed_stays(service: Service, client: httpx.AsyncClient) -> None:
    """The row goes; before its file does, the same package is uploaded again."""
    package = (await client.post("/v1/packages", content=make_zip({"b.py": TRAIN}), headers=ZIP)).json()["package"]
    before = service.packages.path(package).stat().st_mtime
    assert not service.packages.remove(package, before)
    assert service.packages.path(package).exists()
    assert service.packages.remove(package, before + 1)
    assert list(service.packages.path(package).parent.iterdir()) == []


async def test_a_package_that_went_between_look_and_submission_is_asked_for(
    service: Service, client: httpx.AsyncClient, spec: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from surefoot_service.rest.routes import jobs as routes

    async def looks_fine(*_: Any) -> None:
        later = with_settings(service, later=timedelta(hours=25))
        await keep_house(later, sweep=True)

    monkeypatch.setattr(routes, "_check_code", looks_fine)
    answer = await client.post("/v1/jobs", json=spec)
    assert answer.status_code == 422
    assert "upload it first" in answer.text
    assert await shown(client) == []


async def test_rows_without_files_and_files_without_rows_go(
    service: Service, client: httpx.AsyncClient, package: str, job: str
) -> None:
    folder = service.packages.path(package).parent
    stray, young, theirs = folder / f"{'a' * 64}.zip", folder / f"{'b' * 64}.zip", folder / "notes.txt"
    for file in (stray, young, theirs):
        file.write_text("x")
    os.utime(stray, (0, 0))
    uploaded = service.packages.path(package).read_bytes()
    service.packages.path(package).unlink()
    await keep_house(service, sweep=True)
    assert (stray.exists(), young.exists(), theirs.exists()) == (False, True, True)
    assert (await client.get(f"/v1/packages/{package}")).status_code == 404, "the SDK would not upload it again"
    assert await audited(client) == [("package_missing", package), ("package_stray", "a" * 64)]
    again = await client.post("/v1/packages", content=uploaded, headers=ZIP)
    assert (again.status_code, again.json()["package"]) == (201, package)


async def test_a_package_named_in_a_spec_that_cannot_be_read_stays(
    service: Service, client: httpx.AsyncClient, job: str, package: str
) -> None:
    def spoil(session: Session) -> None:
        row = session.scalar(select(JobRow).where(JobRow.id == job))
        assert row is not None
        row.spec = row.spec[:-1] + ', "of a newer version": NaN'

    await service.database.write(spoil)
    await keep_house(with_settings(service, later=timedelta(days=400)), sweep=True)
    assert await service.database.read(lambda s: s.get(PackageRow, package)) is not None


# ---- the audit


async def test_the_audit_is_paged_bounded_and_trimmed(
    service: Service, client: httpx.AsyncClient, anonymous: httpx.AsyncClient, spec: dict[str, Any]
) -> None:
    jobs = await ended_jobs(service, client, anonymous, spec, 5)
    for job in jobs:
        await client.delete(f"/v1/jobs/{job}")
    found: list[str] = []
    after = 0
    while entries := (await client.get("/v1/audit", params={"after": after, "limit": 2})).json()["entries"]:
        assert len(entries) <= 2
        found += [e["subject"] for e in entries]
        after = entries[-1]["n"]
    assert found == jobs
    assert await audited(client, subject=jobs[2]) == [("job_deleted", jobs[2])]
    assert (await client.get("/v1/audit", params={"limit": 1001})).status_code == 422
    await keep_house(with_settings(service, keep_audit_entries=2), sweep=True)
    assert [subject for _, subject in await audited(client)] == jobs[-2:]


async def test_a_disk_of_packages_that_hangs_holds_only_its_own_threads(
    client: httpx.AsyncClient, service: Service, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loop's own threads are everybody's: no call for a package is one of theirs."""
    threads: dict[str, str] = {}
    store = type(service.packages)
    for name in ("remove", "stored", "is_older"):
        inner = getattr(store, name)

        def noted(*args: Any, _inner: Any = inner, _name: str = name) -> Any:
            threads[_name] = threading.current_thread().name
            return _inner(*args)

        monkeypatch.setattr(store, name, noted)
    service.packages.path("f" * 64).write_bytes(b"a stray")
    os.utime(service.packages.path("f" * 64), (0, 0))
    now = service.now() + timedelta(days=3)
    object.__setattr__(service, "now", lambda: now)
    os.utime(service.packages.path(package), (0, 0))
    await Housekeeper(service).once(sweep=True)
    assert threads.keys() == {"remove", "stored", "is_older"}
    assert {name: thread for name, thread in threads.items() if not thread.startswith("waiting-")} == {}


async def test_a_disk_of_packages_that_does_not_answer_is_told_and_not_waited_for(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(*_: Any) -> Any:
        raise BusyError("packages do not answer: 4 calls hang")

    monkeypatch.setattr(service.waiting, "run", refuse)
    again = await Housekeeper(service).once(sweep=True)
    assert again is not None
    assert again >= retention.AGAIN_S
