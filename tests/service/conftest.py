"""A control plane of its own for each test, over its ASGI app, without a Ray cluster."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from surefoot_service.parts import Service
from surefoot_service.rest.app import create_app, serving
from surefoot_service.settings import Settings
from surefoot_service.store.database import Database
from surefoot_service.up import logs

from .fake_ray import FakeRay
from .helpers import TRAIN, ZIP, Attempt, make_zip, start_attempt
from .postgres import Postgres, postgres_server


@pytest.fixture(scope="session", autouse=True)
def _logging() -> None:
    logs.configure()


# the tests that say most of the store: each is run on SQLite and on Postgres
_ON_BOTH_STORES = frozenset(
    {"test_attempts", "test_checkpoints", "test_jobs", "test_migrations", "test_pauses", "test_retries"}
)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    module = metafunc.module.__name__.rpartition(".")[2]
    if module in _ON_BOTH_STORES and "database_url" in metafunc.fixturenames:
        metafunc.parametrize("database_url", ["sqlite", "postgres"], indirect=True)


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """One server for all tests that ask for it; each makes a database of its own."""
    with postgres_server() as server:
        yield server


def migrate(url: str) -> None:
    database = Database(url)
    database.migrate()
    database.close()


@pytest.fixture(scope="session")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SQLite database with this version's tables and nothing in them: it is copied sooner than they are made."""
    file = tmp_path_factory.mktemp("tables") / "surefoot.db"
    migrate(f"sqlite:///{file}")
    return file


@pytest.fixture(scope="session")
def tables_on_postgres(postgres: Postgres) -> str:
    """The name of a database with this version's tables and nothing in them."""
    migrate(postgres.make_database("tables"))
    return "tables"


@pytest.fixture
def database_url(request: pytest.FixtureRequest) -> str | None:
    """A database with tables. None: SQLite."""
    if getattr(request, "param", "sqlite") == "sqlite":
        return None
    server: Postgres = request.getfixturevalue("postgres")
    return server.make_database(f"test-{secrets.token_hex(6)}", like=request.getfixturevalue("tables_on_postgres"))


@pytest.fixture
def settings_more(request: pytest.FixtureRequest) -> dict[str, Any]:
    """What a test's settings have beside."""
    return getattr(request, "param", {})


@pytest.fixture
def settings(tmp_path: Path, database_url: str | None, settings_more: dict[str, Any], tables: Path) -> Settings:
    chosen = {
        "max_package_bytes": 200_000,
        "max_unpacked_bytes": 30_000_000,
        "max_package_entries": 50,
        "max_body_bytes": 100_000,
    }
    if database_url is None:
        (tmp_path / "data").mkdir(mode=0o700)
        shutil.copy(tables, tmp_path / "data")
    return Settings(data=tmp_path / "data", database_url=database_url, **(chosen | settings_more))


@pytest.fixture(scope="session")
def routes() -> FastAPI:
    """The app without a store: made once, as that takes longer than most tests."""
    return create_app(Settings())


@pytest.fixture
async def app(routes: FastAPI, settings: Settings) -> AsyncIterator[FastAPI]:
    """The app with a store of the test's own."""
    async with serving(routes, settings):
        yield routes


@pytest.fixture
def service(app: FastAPI) -> Service:
    found: Service = app.state.service
    return found


@pytest.fixture
async def anonymous(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://surefoot") as client:
        yield client


@pytest.fixture
async def client(app: FastAPI, settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    headers = {"Authorization": "Bearer " + (settings.data / "token").read_text().strip()}
    async with httpx.AsyncClient(transport=transport, base_url="http://surefoot", headers=headers) as client:
        yield client


@pytest.fixture
def fake() -> FakeRay:
    """A Ray cluster in memory."""
    return FakeRay()


@pytest.fixture
async def package(client: httpx.AsyncClient) -> str:
    answer = await client.post("/v1/packages", content=make_zip({"train.py": TRAIN}), headers=ZIP)
    assert answer.status_code == 201, answer.text
    return str(answer.json()["package"])


@pytest.fixture
def spec_more() -> dict[str, Any]:
    """What a test's spec has beside; tests parametrize it."""
    return {}


@pytest.fixture
def spec(package: str, spec_more: dict[str, Any]) -> dict[str, Any]:
    spec = {"entrypoint": "train:train", "package": package, "batch_size": 64, "sub_tasks": 8, "trainers": 2}
    return spec | spec_more


@pytest.fixture
async def job(client: httpx.AsyncClient, spec: dict[str, Any]) -> str:
    answer = await client.post("/v1/jobs", json=spec)
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])


@pytest.fixture
async def attempt(service: Service, anonymous: httpx.AsyncClient, job: str) -> Attempt:
    """A claimed attempt of `job`, which is starting."""
    made = await start_attempt(service, anonymous, job)
    assert (await made.claim()).status_code == 200
    return made
