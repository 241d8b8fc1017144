"""An older service's database is taken over with all that is in it, on both stores, by any number of replicas at once."""

from __future__ import annotations

import secrets
import subprocess
import sys
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from sqlalchemy import create_engine, text

from surefoot.spec import JobSpec
from surefoot_service.store import database as store
from surefoot_service.store import jobs
from surefoot_service.store.database import Database
from surefoot_service.store.tables import Base

from .helpers import LIMIT_S
from .postgres import Postgres

SPEC = JobSpec(entrypoint="train:train", package="0" * 64, batch_size=8)
OLD_JOB = text(
    "INSERT INTO jobs (id, spec, state, reason, created_at, trainers, wanted_trainers, generation, steps_done)"
    " VALUES ('old', :spec, 'running', '', '2026-01-01 00:00:00', 1, 1, 3, 7)"
)


@pytest.fixture
def database_url(request: pytest.FixtureRequest) -> str | None:
    """One without tables. None: SQLite."""
    if request.param == "sqlite":
        return None
    server: Postgres = request.getfixturevalue("postgres")
    return server.make_database(f"test-{secrets.token_hex(6)}")


@pytest.fixture
def url(database_url: str | None, tmp_path: Path) -> str:
    return database_url or f"sqlite:///{tmp_path / 'surefoot.db'}"


def migrate(url: str, to: str) -> None:
    config = Config()
    config.set_main_option("script_location", str(store._MIGRATIONS))
    engine = create_engine(url)
    with engine.connect() as connection:
        config.attributes["connection"] = connection
        (command.downgrade if to == "0001" else command.upgrade)(config, to)
    engine.dispose()


def migrate_here(url: str) -> None:
    database = Database(url)
    database.migrate()
    database.close()


async def test_the_first_versions_database_is_taken_over(url: str) -> None:
    migrate_here(url)
    migrate(url, "0001")
    engine = create_engine(url)
    with engine.begin() as connection:
        connection.execute(OLD_JOB, {"spec": SPEC.model_dump_json()})
    engine.dispose()
    database = Database(url)
    try:
        database.migrate()
        view = await database.read(jobs.see, "old")
        assert (view.steps_done, view.generation, view.checkpoint, view.model, view.attempts) == (7, 3, None, None, 0)
        row = await database.read(jobs.load, "old")
        assert (row.losses, row.progressed, row.retry_at) == (0, False, None)
    finally:
        database.close()


def test_the_migrations_make_what_the_tables_say(url: str) -> None:
    migrate_here(url)
    engine = create_engine(url)
    with engine.connect() as connection:
        differences = compare_metadata(MigrationContext.configure(connection), Base.metadata)
    engine.dispose()
    assert differences == []


MIGRATE = "import sys; from surefoot_service.store.database import Database; Database(sys.argv[1]).migrate()"


@pytest.mark.process
def test_replicas_that_start_at_once_migrate_once(postgres: Postgres) -> None:
    """On Postgres: SQLite is for one service."""
    url = postgres.make_database("replicas")
    replicas = [subprocess.Popen([sys.executable, "-c", MIGRATE, url]) for _ in range(3)]
    assert [replica.wait(LIMIT_S) for replica in replicas] == [0, 0, 0]


@pytest.mark.process
def test_a_database_is_migrated_by_a_command(url: str, tmp_path: Path) -> None:
    """What the chart's hook runs, before the new version takes over."""
    env = {"PATH": "", "HOME": str(tmp_path), "SUREFOOT_DATABASE_URL": url}
    done = subprocess.run(
        [sys.executable, "-m", "surefoot_service.migrations"], env=env, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    engine = create_engine(url)
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), Base.metadata) == []
        connection.execute(text("UPDATE alembic_version SET version_num = 'newer'"))
        connection.execute(text("DROP TABLE events"))
        connection.commit()
    engine.dispose()
    done = subprocess.run(
        [sys.executable, "-m", "surefoot_service.migrations"], env=env, capture_output=True, text=True
    )
    assert done.returncode == 1
    assert "there is no table events" in done.stderr
    assert "Traceback" not in done.stderr
