"""One transaction a function, on threads; SQLite's writers share one where several wait, since each costs a sync of the disk."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError, IntegrityError, InterfaceError, InternalError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.orm import Session, sessionmaker

from surefoot.errors import SurefootError

__all__ = ["GroupWriter", "StoreAwayError", "ThreadWriter", "in_transaction"]

# a transaction that met another of its kind finds what that one wrote when it is done again
_TRIES = 3
# Postgres's names of that: a deadlock, two that cannot be put in a row
_CROSSED = frozenset({"40P01", "40001"})
# so many are committed together at most, so that the first does not wait long for the last
_GROUP = 32

T = TypeVar("T")


class StoreAwayError(SurefootError):
    """The database does not answer, or cannot write; the same again later may be done."""


def in_transaction(sessions: sessionmaker[Session], function: Callable[[Session], T]) -> Callable[[], T]:
    """Return what runs the function in a transaction of its own, again where it crossed another."""

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
                raise _away(error) from error
            raise

    return transaction


class ThreadWriter:
    """Writers side by side, for a database that has them so."""

    def __init__(self, engine: Engine, threads: int) -> None:
        self._sessions = sessionmaker(engine, expire_on_commit=False)
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="store-write")

    def submit(self, function: Callable[[Session], T]) -> Future[T]:
        """Begin a transaction; the future is done when it is committed."""
        return self._threads.submit(in_transaction(self._sessions, function))

    def close(self) -> None:
        self._threads.shutdown()


class GroupWriter:
    """The one writer of a SQLite database: who waits is written together, each apart from the others, and synced once."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="store-write")
        self._waiting: deque[_Write] = deque()

    def submit(self, function: Callable[[Session], T]) -> Future[T]:
        """Have the function run in a transaction; the future is done when it is committed."""
        write = _Write(function)
        self._waiting.append(write)
        self._thread.submit(self._write_waiting)
        return write.future

    def close(self) -> None:
        self._thread.shutdown()

    def _write_waiting(self) -> None:
        """Write all that wait, up to a group's size; a later call finds what is left, or nothing."""
        group = [self._waiting.popleft() for _ in range(min(_GROUP, len(self._waiting)))]
        # whoever does not wait any more is not written
        group = [write for write in group if write.future.set_running_or_notify_cancel()]
        if group:
            try:
                self._write(group)
            except BaseException as error:  # the edge of the thread: nobody may wait for ever
                for write in group:
                    write.fail(error)
                if not isinstance(error, Exception):
                    raise

    def _write(self, group: Sequence[_Write]) -> None:
        try:
            self._commit(group)
        except _AbortedError:
            # The database threw back one of them, and the transaction with it: each by itself, so that the others are done.
            for write in group:
                try:
                    self._commit([write])
                except _AbortedError as error:
                    write.fail(_away(error.cause))
                except (DBAPIError, PoolTimeoutError) as error:
                    write.fail(_away(error) if _is_away(error) else error)
        except (DBAPIError, PoolTimeoutError) as error:
            # It could not be begun, or not be committed.
            for write in group:
                write.fail(_away(error) if _is_away(error) else error)

    def _commit(self, group: Sequence[_Write]) -> None:
        with self._engine.connect() as connection, connection.begin():
            for write in group:
                write.run(connection)
        for write in group:
            write.answer()


class _AbortedError(Exception):
    """The database failed inside one of a group's functions."""

    def __init__(self, cause: DBAPIError | PoolTimeoutError) -> None:
        super().__init__(str(cause))
        self.cause = cause


class _Write:
    """One function that waits to be written, and what came of it."""

    def __init__(self, function: Callable[[Session], Any]) -> None:
        self._function = function
        self.future: Future[Any] = Future()
        self._result: Any = None
        self._error: Exception | None = None

    def run(self, connection: Connection) -> None:
        """Run inside the connection's transaction, in a savepoint: what raises changes nothing."""
        self._result = self._error = None
        for _ in range(_TRIES):
            try:
                with (
                    Session(connection, join_transaction_mode="create_savepoint", expire_on_commit=False) as session,
                    session.begin(),
                ):
                    self._result = self._function(session)
                self._error = None
                return
            except IntegrityError as error:
                self._error = error  # another wrote the same meanwhile: found when it is done again
            except (DBAPIError, PoolTimeoutError) as error:
                if _is_away(error):
                    raise _AbortedError(error) from error
                self._error = error
                return
            except Exception as error:  # noqa: BLE001  the caller's: it is raised where the answer is waited for
                self._error = error
                return

    def answer(self) -> None:
        """What the function came to is committed."""
        if self._error is not None:
            self.future.set_exception(self._error)
        else:
            self.future.set_result(self._result)

    def fail(self, error: BaseException) -> None:
        if not self.future.done():
            self.future.set_exception(error)


def _away(error: DBAPIError | PoolTimeoutError) -> StoreAwayError:
    away = StoreAwayError(f"the database does not do what it is asked: {_first_line(error)}")
    away.__cause__ = error
    return away


def _is_away(error: DBAPIError | PoolTimeoutError) -> bool:
    """Whether it is the database's state, and not what it was asked, that is at fault: stopped, locked, full, unreachable."""
    if isinstance(error, PoolTimeoutError | OperationalError | InterfaceError | InternalError):
        return True
    return error.connection_invalidated


def _first_line(error: Exception) -> str:
    cause = error.orig if isinstance(error, DBAPIError) else error
    return (str(cause).strip().splitlines() or [type(error).__name__])[0]
