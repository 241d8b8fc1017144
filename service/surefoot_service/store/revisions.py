"""A database that a newer version has migrated: used as it is, or refused with the reason where something in it is in the way."""

from __future__ import annotations

import structlog
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, inspect
from sqlalchemy.engine.reflection import Inspector

from surefoot.errors import SurefootError
from surefoot_service.store.tables import Base

__all__ = ["SchemaTooNewError", "is_newer"]

log = structlog.get_logger()


class SchemaTooNewError(SurefootError):
    """A newer version has changed the database so that this one cannot use it."""


def is_newer(connection: Connection, config: Config) -> bool:
    """Whether a newer version has migrated the database, into one that this version can use all the same.

    Raises SchemaTooNewError where it cannot: a column is gone that it needs, or there is one that it would have to fill.
    """
    known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
    unknown = [head for head in MigrationContext.configure(connection).get_current_heads() if head not in known]
    if not unknown:
        return False
    if obstacles := _obstacles(inspect(connection)):
        raise SchemaTooNewError(
            f"a newer version of surefoot has changed the database (revision {', '.join(unknown)}), and this version cannot use it: "
            f"{'; '.join(obstacles)}. Run that version, or give this one a copy of the database from before"
        )
    log.warning("database_of_a_newer_version", revision=unknown, used="as it is")
    return True


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
