"""What is looked at to say whether the service can do its work. Each says what is wrong in words that anybody may read."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

import fsspec
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import NullPool, create_engine, make_url, text
from sqlalchemy.exc import SQLAlchemyError

from surefoot_service.cluster.jobs_api import RayError
from surefoot_service.parts import Service
from surefoot_service.readiness import NotReadyError, Probe
from surefoot_service.waiting import in_thread

__all__ = ["probes_of"]

# how long a database may take to answer a probe
_DATABASE_S = 2
_MIGRATIONS = Path(__file__).parent.parent / "migrations"


def probes_of(service: Service) -> Mapping[str, Probe]:
    url = service.settings.database
    return {
        "database": lambda: in_thread(lambda: _database(url), "ready-database"),
        "migrations": lambda: in_thread(lambda: _migrations(url), "ready-migrations"),
        "packages": lambda: in_thread(lambda: _folder(service.packages.folder), "ready-packages"),
        "storage": lambda: in_thread(lambda: _storage(service.settings.checkpoint_place), "ready-storage"),
        "cluster": lambda: _cluster(service),
    }


def _database(url: str) -> None:
    # A file that is no database is seen only where something of it is read.
    _ask(url, "SELECT count(*) FROM alembic_version")


def _migrations(url: str) -> None:
    found = _ask(url, "SELECT version_num FROM alembic_version")
    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS))
    wanted = ScriptDirectory.from_config(config).get_current_head()
    if found != wanted:
        raise NotReadyError(f"the database's tables are of version {found}, and this service needs {wanted}")


def _ask(url: str, query: str) -> object:
    """Ask the database over a connection of its own: those of the service may all be in use."""
    is_sqlite = make_url(url).get_backend_name() == "sqlite"
    if is_sqlite and not Path(make_url(url).database or "").is_file():
        raise NotReadyError("the database's file is gone")
    options = {"timeout": _DATABASE_S} if is_sqlite else {"connect_timeout": _DATABASE_S}
    engine = create_engine(url, poolclass=NullPool, connect_args=options)
    try:
        with engine.connect() as connection:
            return connection.execute(text(query)).scalar()
    except SQLAlchemyError as error:
        raise NotReadyError("the database does not answer, or is not the service's") from error


def _folder(folder: Path) -> None:
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"ready")
            file.flush()
    except OSError as error:
        raise NotReadyError(f"the folder of packages cannot be written: {error.strerror}") from error


def _storage(place: str) -> None:
    try:
        if "://" in place:
            _remote(place)
        else:
            _local(Path(place))
    except NotReadyError:
        raise
    except Exception as error:  # the edge to whatever storage is behind fsspec, each with errors of its own
        raise NotReadyError("the place of checkpoints cannot be read; the service's log says why") from error


def _local(place: Path) -> None:
    there = next(p for p in (place, *place.parents) if p.exists())
    if not there.is_dir() or not os.access(there, os.R_OK | os.W_OK | os.X_OK):
        raise NotReadyError("the folder of checkpoints is none, or cannot be written")
    with os.scandir(there) as entries:
        next(entries, None)


def _remote(place: str) -> None:
    """Before the first checkpoint nothing is there yet; what it lies in is."""
    system, path = fsspec.core.url_to_fs(place)
    system.invalidate_cache()
    while path:
        try:
            system.ls(path)
            return
        except FileNotFoundError:
            path = path.rpartition("/")[0]
    raise NotReadyError("there is no such place of checkpoints")


async def _cluster(service: Service) -> None:
    if not service.cluster.expected:
        return
    if service.cluster.ask is None:
        raise NotReadyError("the Ray cluster is still starting: jobs wait in the queue")
    try:
        await service.cluster.ask()
    except RayError as error:
        raise NotReadyError("the Ray cluster does not answer, or refuses the service") from error
