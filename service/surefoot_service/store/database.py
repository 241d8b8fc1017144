"""The database: opened, migrated, and used in short transactions on worker threads."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, Engine, create_engine, event, make_url
from sqlalchemy.orm import Session, sessionmaker

from surefoot_service.store.revisions import needs_migration
from surefoot_service.store.transactions import GroupWriter, StoreAwayError, ThreadWriter, in_transaction

__all__ = ["Database", "StoreAwayError"]

_MIGRATIONS = Path(__file__).parent.parent / "migrations"
# how long a writer waits for another process's; SQLite has one at a time
_BUSY_S = 10
# how long a database on another machine may take to accept a connection, or to take what was sent on one
_CONNECT_S = 5
_SEND_S = 10
# how long a caller waits for a transaction, whatever it is that holds it up
_ANSWER_S = 20.0
# reads at a time, and on Postgres writes
_READERS, _WRITERS = 8, 8
# of each kind, those under way included
_MOST_WAITING = 1000

P = ParamSpec("P")
T = TypeVar("T")


class Database:
    """Runs functions of a session, each in one transaction. No function waits for the network inside.

    Reads and writes have threads and connections of their own: in SQLite's WAL a reader waits for no writer, and here neither.
    What a write has changed is on disk when it returns.
    """

    def __init__(self, url: str) -> None:
        sqlite = make_url(url).get_backend_name() == "sqlite"
        self._reading = _sqlite(url, query_only=True) if sqlite else _postgres(url, _READERS)
        self._writing = _sqlite(url) if sqlite else _postgres(url, _WRITERS)
        # Threads of its own: what waits for a storage or a file must not wait for a database that is away, nor it for them.
        self._readers = ThreadPoolExecutor(_READERS, thread_name_prefix="store-read")
        self._writer: GroupWriter | ThreadWriter = (
            GroupWriter(self._writing) if sqlite else ThreadWriter(self._writing, _WRITERS)
        )
        self._reads = sessionmaker(self._reading, expire_on_commit=False)
        self._waiting_reads, self._waiting_writes = _Bound("reads"), _Bound("writes")

    def migrate(self) -> None:
        """Bring the tables to this version's. Raises SchemaTooNewError where a newer version has made them into others."""
        with self._writing.connect() as connection:
            if not needs_migration(connection, _MIGRATIONS):
                return
            config = Config()
            config.set_main_option("script_location", str(_MIGRATIONS))
            config.attributes["connection"] = connection
            command.upgrade(config, "head")

    def close(self) -> None:
        """Let transactions that are under way end, then close the connections."""
        self._readers.shutdown()
        self._writer.close()
        for engine in (self._reading, self._writing):
            engine.dispose()

    async def read(self, function: Callable[Concatenate[Session, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Return `function(session, ...)` of one read transaction."""
        with self._waiting_reads:
            work = in_transaction(self._reads, lambda session: function(session, *args, **kwargs))
            return await _answer(self._readers.submit(work))

    async def write(self, function: Callable[Concatenate[Session, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Return `function(session, ...)` once what it changed is committed; nothing is changed when it raises."""
        # A caller who goes away does not stop the thread: the transaction ends either way, whole.
        with self._waiting_writes:
            return await _answer(self._writer.submit(lambda session: function(session, *args, **kwargs)))


class _Bound:
    """So many may wait; the next is told to come again, rather than to wait in a line without an end."""

    def __init__(self, what: str) -> None:
        self._what, self._waiting = what, 0

    def __enter__(self) -> None:
        if self._waiting >= _MOST_WAITING:
            raise StoreAwayError(f"the database has {_MOST_WAITING} {self._what} waiting")
        self._waiting += 1

    def __exit__(self, *_: object) -> None:
        self._waiting -= 1


async def _answer(work: Future[T]) -> T:
    try:
        async with asyncio.timeout(_ANSWER_S):
            return await asyncio.wrap_future(work)
    except TimeoutError as error:
        # One that stands still takes what is sent, and it may yet be done: all that is asked here may be asked again.
        raise StoreAwayError(f"the database has not answered for {_ANSWER_S:g} s") from error


def _sqlite(url: str, *, query_only: bool = False) -> Engine:
    engine = create_engine(
        url,
        pool_size=_READERS,
        max_overflow=0,
        connect_args={"timeout": _BUSY_S, "check_same_thread": False},
        execution_options={"surefoot_write": not query_only},
    )
    event.listen(engine, "connect", partial(_prepare_sqlite, query_only=query_only))
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _postgres(url: str, threads: int) -> Engine:
    # as many connections as threads, so that none waits for one
    return create_engine(
        url,
        pool_size=threads,
        max_overflow=1,
        pool_pre_ping=True,
        pool_timeout=_SEND_S,
        connect_args=_postgres_options(),
    )


def _postgres_options() -> dict[str, int]:
    """libpq's: without them a database that is cut off keeps a thread waiting for many minutes."""
    return {
        "connect_timeout": _CONNECT_S,
        "tcp_user_timeout": _SEND_S * 1000,
        "keepalives_idle": _SEND_S,
        "keepalives_interval": 2,
        "keepalives_count": 3,
    }


def _prepare_sqlite(connection: sqlite3.Connection, _record: Any, *, query_only: bool) -> None:
    # None: the driver begins no transaction of its own, _begin_sqlite does
    connection.isolation_level = None
    # bytes that are no text are read as far as they are
    connection.text_factory = _text
    # FULL: what is committed is on disk. Supervisors forget what is acknowledged, so a power cut must not take it back.
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", f"query_only={int(query_only)}"):
        connection.execute(f"PRAGMA {pragma}")


def _text(stored: bytes) -> str:
    return stored.decode(errors="replace")


def _begin_sqlite(connection: Connection) -> None:
    # A transaction that reads before it writes may otherwise find that another wrote meanwhile, which no waiting mends.
    writes = connection.get_execution_options().get("surefoot_write", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
