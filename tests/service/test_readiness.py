"""What the service says of its own health: the truth, in a bounded time, however often it is asked."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import threading
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from surefoot.views import NotReady, Ready
from surefoot_service.cluster.jobs_api import RayUnavailableError
from surefoot_service.parts import Service
from surefoot_service.readiness import NotReadyError, Readiness
from surefoot_service.rest import probes
from surefoot_service.settings import Settings
from surefoot_service.waiting import in_thread

NAMES = ["database", "migrations", "packages", "storage", "cluster"]


@pytest.fixture(autouse=True)
def _cluster(service: Service) -> None:
    """A cluster that answers; and nothing is remembered, so that each question is asked anew."""

    async def answers() -> str:
        return "session"

    service.cluster.expected, service.cluster.ask = True, answers
    service.readiness.fresh_s = -1.0


async def wrong(client: httpx.AsyncClient) -> dict[str, str]:
    """What is wrong, by name."""
    answer = await client.get("/v1/ready")
    if answer.status_code == 200:
        assert [c.name for c in Ready.model_validate_json(answer.text).checks] == NAMES
        return {}
    assert (answer.status_code, answer.headers["content-type"]) == (503, "application/problem+json")
    found = NotReady.model_validate_json(answer.text)
    assert [c.name for c in found.checks] == NAMES
    assert all(c.detail for c in found.checks if not c.ok)
    return {c.name: c.detail for c in found.checks if not c.ok}


async def test_a_whole_service_is_ready(anonymous: httpx.AsyncClient) -> None:
    assert await wrong(anonymous) == {}


async def test_a_database_that_is_gone(anonymous: httpx.AsyncClient, settings: Settings) -> None:
    for file in settings.data.glob("surefoot.db*"):
        file.rename(file.with_suffix(".away"))
    assert set(await wrong(anonymous)) == {"database", "migrations"}
    assert (await anonymous.get("/v1/health")).status_code == 200


def test_looking_at_a_database_makes_none(tmp_path: Path) -> None:
    with pytest.raises(NotReadyError, match="gone"):
        probes._database(f"sqlite:///{tmp_path}/nothere.db")
    assert not (tmp_path / "nothere.db").exists()


async def test_a_database_that_is_none(anonymous: httpx.AsyncClient, settings: Settings) -> None:
    for file in settings.data.glob("surefoot.db*"):
        file.unlink()
    (settings.data / "surefoot.db").write_bytes(b"no database" * 1000)
    assert set(await wrong(anonymous)) == {"database", "migrations"}


async def test_tables_of_another_version(anonymous: httpx.AsyncClient, settings: Settings) -> None:
    with closing(sqlite3.connect(settings.data / "surefoot.db")) as database:
        database.execute("UPDATE alembic_version SET version_num = '9999'")
        database.commit()
    found = await wrong(anonymous)
    assert set(found) == {"migrations"}
    assert "9999" in found["migrations"]


async def test_a_folder_of_packages_that_is_gone(anonymous: httpx.AsyncClient, service: Service) -> None:
    service.packages.folder.rmdir()
    assert set(await wrong(anonymous)) == {"packages"}


@pytest.mark.parametrize("place", ["file", "memory://nothere/x", "nothere://x", "file/below"])
async def test_a_place_of_checkpoints_that_is_none(
    place: str, anonymous: httpx.AsyncClient, service: Service, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("no folder")
    where = place if "://" in place else str(tmp_path / place)
    object.__setattr__(service, "settings", service.settings.model_copy(update={"checkpoints": where}))
    assert set(await wrong(anonymous)) == {"storage"}


async def test_a_cluster_that_does_not_answer(anonymous: httpx.AsyncClient, service: Service) -> None:
    async def away() -> None:
        raise RayUnavailableError("secret-host:8265 does not answer")

    service.cluster.ask = away
    found = await wrong(anonymous)
    assert set(found) == {"cluster"}
    assert "secret-host" not in json.dumps(found)
    service.cluster.ask = None
    assert set(await wrong(anonymous)) == {"cluster"}
    service.cluster.expected = False
    assert await wrong(anonymous) == {}


async def test_health_touches_nothing(anonymous: httpx.AsyncClient, service: Service, monkeypatch: Any) -> None:
    async def touched(*_: Any, **__: Any) -> None:
        raise AssertionError("touched")

    monkeypatch.setattr(type(service.database), "read", touched)
    monkeypatch.setattr(type(service.database), "write", touched)
    service.cluster.ask = touched
    assert (await anonymous.get("/v1/health")).status_code == 200


# ---- probes that hang


async def test_what_hangs_is_bounded_and_does_not_pile_up() -> None:
    gate, running = threading.Event(), threading.Semaphore(0)

    def hang() -> None:
        running.release()
        gate.wait()

    async def well() -> None:
        return None

    async def ill() -> None:
        raise NotReadyError("it is ill")

    readiness = Readiness(
        probes={"hangs": lambda: in_thread(hang, "hangs"), "well": well, "ill": ill}, wait_s=0.05, fresh_s=-1.0
    )
    try:
        for checks in [await readiness.look() for _ in range(5)] + await asyncio.gather(
            *(readiness.look() for _ in range(20))
        ):
            assert [(c.name, c.ok) for c in checks] == [("hangs", False), ("well", True), ("ill", False)]
            assert "has not answered" in checks[0].detail
        assert [t.name for t in threading.enumerate()].count("hangs") <= 1
        assert running.acquire(timeout=60)
        assert not running.acquire(blocking=False)
    finally:
        gate.set()
    readiness.wait_s = 10.0
    assert (await readiness.look())[0].ok
    readiness.close()


async def test_a_flood_of_questions_is_one_look() -> None:
    looks = 0

    async def look() -> None:
        nonlocal looks
        looks += 1

    readiness = Readiness(probes={"it": look}, fresh_s=60.0)
    for _ in range(100):
        assert (await readiness.look())[0].ok
    assert looks == 1


async def test_a_hung_thread_outlives_its_loop_without_harm() -> None:
    gate = threading.Event()

    async def given_up() -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await in_thread(gate.wait, "hangs")

    await asyncio.to_thread(asyncio.run, given_up())
    gate.set()


async def test_the_document_tells_of_both(app: FastAPI) -> None:
    paths = app.openapi()["paths"]
    for path in ("/v1/health", "/v1/ready"):
        assert "security" not in paths[path]["get"]
    assert "NotReady" in json.dumps(paths["/v1/ready"]["get"]["responses"]["503"])
