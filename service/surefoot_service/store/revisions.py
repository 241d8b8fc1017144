"""A database that a newer version has migrated: used as it is, or refused with the reason where something in it is in the way."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import structlog
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, inspect
from sqlalchemy.engine.reflection import Inspector

from surefoot.errors import SurefootError
from surefoot_service.store.tables import Base

__all__ = ["SchemaTooNewError", "needs_migration"]

log = structlog.get_logger()


class SchemaTooNewError(SurefootError):
    """A newer version has changed the database so that this one cannot use it."""


def needs_migration(connection: Connection, place: Path) -> bool:
    """Whether the database is older than the migrations that lie there; one that a newer version has migrated is used as it is.

    Raises SchemaTooNewError where it cannot be: a column is gone that this version needs, or there is one that it would have to fill.
    """
    there, (newest, *older) = MigrationContext.configure(connection).get_current_heads(), _revisions(place)
    unknown = [head for head in there if head not in (newest, *older)]
    if not unknown:
        return there != (newest,)
    if obstacles := _obstacles(inspect(connection)):
        raise SchemaTooNewError(
            f"a newer version of surefoot has changed the database (revision {', '.join(unknown)}), and this version cannot use it: "
            f"{'; '.join(obstacles)}. Run that version, or give this one a copy of the database from before"
        )
    log.warning("database_of_a_newer_version", revision=unknown, used="as it is")
    return False


@cache
def _revisions(place: Path) -> tuple[str, ...]:
    """All that this version knows, the newest first."""
    return tuple(script.revision for script in ScriptDirectory(str(place)).walk_revisions())


def _obstacles(there: Inspector) -> list[str]:
    tables = set(there.get_table_names())
    found: list[str] = []
    for table in Base.metadata.sorted_tables:
        if table.name not in tables:
            found.append(f"there is no table {table.name}")
            continue
        columns = {column["name"]: column for column in there.get_columns(table.name)}
        found += [f"{table.name} has no column {name}" for name in table.columns.keys() - columns.keys()]
        found += [
            f"{table.name}.{name} must have a value that this version does not know"
            for name in sorted(columns.keys() - table.columns.keys())
            if not columns[name]["nullable"] and columns[name]["default"] is None
        ]
    return found
