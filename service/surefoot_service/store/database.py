"""The database: opened, migrated, and used in short transactions on worker threads."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import DBAPIError, IntegrityError, InterfaceError, InternalError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.orm import Session, sessionmaker

from surefoot.errors import SurefootError

__all__ = ["Database", "StoreAwayError"]

_MIGRATIONS = Path(__file__).parent.parent / "migrations"
# how long a writer waits for another; SQLite has one at a time
_BUSY_S = 10
# how long a database on another machine may take to accept a connection, or to take what was sent on one
_CONNECT_S = 5
_SEND_S = 10
# a transaction that met another of its kind finds what that one wrote when it is done again
_TRIES = 3
# how long a caller waits for a transaction, whatever it is that holds it up
_ANSWER_S = 20.0
# transactions at a time; below what the pool of connections holds, so that none waits for one
_THREADS = 8
# Postgres's names of that: a deadlock, two that cannot be put in a row
_CROSSED = frozenset({"40P01", "40001"})

P = ParamSpec("P")
T = TypeVar("T")


class StoreAwayError(SurefootError):
    """The database does not answer, or cannot write; the same again later may be done."""


class Database:
    """Runs functions of a session, each in one transaction. No function waits for the network inside."""

    def __init__(self, url: str) -> None:
        self._engine = _engine(url)
        # Threads of its own: what waits for a storage or a file must not wait for a database that is away, nor it for them.
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="store")
        self._reads = sessionmaker(self._engine, expire_on_commit=False)
        # The same pool; the option tells SQLite to take its write lock at once, as a transaction that reads before it
        # writes may otherwise find that another wrote meanwhile, which no waiting mends.
        self._writes = sessionmaker(self._engine.execution_options(surefoot_write=True), expire_on_commit=False)

    def migrate(self) -> None:
        """Bring the tables to this version's."""
        config = Config()
        config.set_main_option("script_location", str(_MIGRATIONS))
        with self._engine.connect() as connection:
            config.attributes["connection"] = connection
            command.upgrade(config, "head")

    def close(self) -> None:
        """Let transactions that are under way end, then close the connections."""
        self._threads.shutdown()
        self._engine.dispose()

    async def read(self, function: Callable[Concatenate[Session, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Return `function(session, ...)` of one read transaction."""
        return await self._run(_in_transaction(self._reads, lambda session: function(session, *args, **kwargs)))

    async def write(self, function: Callable[Concatenate[Session, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Return `function(session, ...)` once what it changed is committed; nothing is changed when it raises."""
        # A caller who goes away does not stop the thread: the transaction ends either way, whole.
        return await self._run(_in_transaction(self._writes, lambda session: function(session, *args, **kwargs)))

    async def _run(self, transaction: Callable[[], T]) -> T:
        try:
            async with asyncio.timeout(_ANSWER_S):
                return await asyncio.get_running_loop().run_in_executor(self._threads, transaction)
        except TimeoutError as error:
            # One that stands still takes what is sent, and it may yet be done: all that is asked here may be asked again.
            raise StoreAwayError(f"the database has not answered for {_ANSWER_S:g} s") from error


def _in_transaction(sessions: sessionmaker[Session], function: Callable[[Session], T]) -> Callable[[], T]:
    def transaction() -> T:
        for _ in range(_TRIES - 1):
            try:
                return once()
            except IntegrityError:
                continue
            except StoreAwayError as error:
                if getattr(getattr(error.__cause__, "orig", None), "sqlstate", None) not in _CROSSED:
                    raise
        return once()

    def once() -> T:
        try:
            with sessions.begin() as session:
                return function(session)
        except (DBAPIError, PoolTimeoutError) as error:
            if _is_away(error):
                raise StoreAwayError(f"the database does not do what it is asked: {_first_line(error)}") from error
            raise

    return transaction


def _is_away(error: DBAPIError | PoolTimeoutError) -> bool:
    """Whether it is the database's state, and not what it was asked, that is at fault: stopped, locked, full, unreachable."""
    if isinstance(error, PoolTimeoutError | OperationalError | InterfaceError | InternalError):
        return True
    return error.connection_invalidated


def _first_line(error: Exception) -> str:
    cause = error.orig if isinstance(error, DBAPIError) else error
    return (str(cause).strip().splitlines() or [type(error).__name__])[0]


def _engine(url: str) -> Engine:
    if make_url(url).get_backend_name() != "sqlite":
        return create_engine(url, pool_pre_ping=True, pool_timeout=_SEND_S, connect_args=_postgres_options())
    engine = create_engine(url, connect_args={"timeout": _BUSY_S, "check_same_thread": False})
    event.listen(engine, "connect", _prepare_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _postgres_options() -> dict[str, int]:
    """libpq's: without them a database that is cut off keeps a thread waiting for many minutes."""
    return {
        "connect_timeout": _CONNECT_S,
        "tcp_user_timeout": _SEND_S * 1000,
        "keepalives_idle": _SEND_S,
        "keepalives_interval": 2,
        "keepalives_count": 3,
    }


def _prepare_sqlite(connection: sqlite3.Connection, _record: Any) -> None:
    # None: the driver begins no transaction of its own, _begin_sqlite does
    connection.isolation_level = None
    for pragma in ("journal_mode=WAL", "synchronous=NORMAL", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {pragma}")


def _begin_sqlite(connection: Connection) -> None:
    writes = connection.get_execution_options().get("surefoot_write", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
