"""Waiting for what may never answer: on threads of its own for each kind, so many at most, and never for longer than was said.

A call of a dead mount cannot be ended. It is left to itself on its thread and counted; whoever asked is answered, other kinds of calls
have their own places, and so have other storages of the same kind. The threads are daemons: a process with calls that hang can end.
"""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Generic, ParamSpec, TypeVar

from surefoot.errors import SurefootError

__all__ = ["LIMITS", "BusyError", "HungError", "Kind", "Limits", "Patience", "Waiting", "in_thread"]

# how long a call waits for a place before it is refused
_QUEUE_S = 2.0

P = ParamSpec("P")
T = TypeVar("T")


class Kind(StrEnum):
    """What is waited for."""

    STORAGE = "storages"
    PACKAGES = "packages"
    SOURCES = "source checks"
    LAUNCHES = "launches"
    LOGS = "log files"
    TRACES = "exports of traces"


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How many calls of a kind there may be."""

    # at a time, without those that hang
    running: int
    # of one storage, those that hang included
    each: int
    # that hang, of all storages together
    hung: int = 32


LIMITS: Mapping[Kind, Limits] = {
    Kind.STORAGE: Limits(running=16, each=8, hung=64),
    Kind.PACKAGES: Limits(running=4, each=4),
    Kind.SOURCES: Limits(running=4, each=4),
    Kind.LAUNCHES: Limits(running=4, each=4),
    Kind.LOGS: Limits(running=8, each=8),
    Kind.TRACES: Limits(running=1, each=1),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """What a call waits for, and how long."""

    # the name of a storage; empty: this machine's own disk
    of: str = ""
    # for a place
    queue_s: float = _QUEUE_S
    # for its answer
    within_s: float = 60.0


class BusyError(SurefootError):
    """Too many calls of the kind are under way, or hang; the same later may be done."""

    retry_after_s = 5


class HungError(SurefootError):
    """The call has not come back in time; it is left to itself."""

    retry_after_s = 30


class Waiting:
    """The places of every kind. Used on one event loop."""

    def __init__(self, limits: Mapping[Kind, Limits] = LIMITS) -> None:
        self._pools = {kind: _Pool(kind, limits[kind]) for kind in Kind}

    async def run(self, kind: Kind, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """As `run_with`, for calls that hang only where this machine's own disk does."""
        return await self.run_with(Patience(), kind, function, *args, **kwargs)

    async def run_with(
        self, patience: Patience, kind: Kind, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Return `function(...)`, called on a thread.

        Raises BusyError when no place is free, HungError when it has not come back in time, and what the function raises.
        """
        pool = self._pools[kind]
        await pool.enter(patience)
        call: _Call[T] = _Call(pool, patience.of, lambda: function(*args, **kwargs))
        return await call.outcome(patience.within_s)

    def leave(self, kind: Kind, of: str, function: Callable[[], object]) -> None:
        """Call `function` on a thread that nobody waits for: the close of a file, say."""
        pool = self._pools[kind]
        pool.take(of)
        _Call(pool, of, function).abandon()

    def hung(self, kind: Kind) -> int:
        """How many calls of the kind hang at present."""
        return self._pools[kind].hung


class _Pool:
    """The places of one kind, counted on the event loop."""

    def __init__(self, kind: Kind, limits: Limits) -> None:
        self.hung = 0
        self._kind, self._limits = kind, limits
        self._running = 0
        # by storage: running, and hanging
        self._of: Counter[str] = Counter()
        self._hung_of: Counter[str] = Counter()
        self._freed = asyncio.Event()

    async def enter(self, patience: Patience) -> None:
        """Take a place, waiting a moment for one. Raises BusyError."""
        of = patience.of
        try:
            async with asyncio.timeout(patience.queue_s):
                while not self._is_free(of):
                    self._refuse_the_dead(of)
                    freed = self._freed
                    await freed.wait()
        except TimeoutError:
            raise BusyError(f"too many {self._kind} are being waited for; ask again in a few seconds") from None
        self.take(of)

    def take(self, of: str) -> None:
        self._running += 1
        self._of[of] += 1

    def hangs(self, of: str) -> None:
        """Note that a call hangs: its place is for others, but not for the same storage's."""
        self._running -= 1
        self.hung += 1
        self._hung_of[of] += 1
        self._tell()

    def ended(self, of: str, *, hung: bool) -> None:
        self._of[of] -= 1
        if hung:
            self.hung -= 1
            self._hung_of[of] -= 1
        else:
            self._running -= 1
        self._of, self._hung_of = +self._of, +self._hung_of
        self._tell()

    def _is_free(self, of: str) -> bool:
        limits = self._limits
        return self._running < limits.running and self._of[of] < limits.each and self.hung < limits.hung

    def _refuse_the_dead(self, of: str) -> None:
        """Let nobody wait for places that only calls which hang could free."""
        if self._hung_of[of] >= self._limits.each or self.hung >= self._limits.hung:
            where = f"of {of} " if self._hung_of[of] >= self._limits.each and of else ""
            raise BusyError(f"{self._kind} {where}do not answer: {self._hung_of[of] or self.hung} calls hang")

    def _tell(self) -> None:
        self._freed.set()
        self._freed = asyncio.Event()


class _Call(Generic[T]):
    """One call, on a thread of its own."""

    def __init__(self, pool: _Pool, of: str, function: Callable[[], T]) -> None:
        self._pool, self._of, self._function = pool, of, function
        self._loop = asyncio.get_running_loop()
        self._future: asyncio.Future[T] = self._loop.create_future()
        self._is_hung = False
        threading.Thread(target=self._work, name=f"waiting-{of}", daemon=True).start()

    async def outcome(self, within_s: float) -> T:
        try:
            async with asyncio.timeout(within_s):
                return await asyncio.shield(self._future)
        except TimeoutError:
            if self._future.done():
                raise  # the function's own
            self.abandon()
            raise HungError(f"no answer within {within_s:g} s") from None
        except asyncio.CancelledError:
            self.abandon()
            raise

    def abandon(self) -> None:
        """Nobody waits for it any more."""
        self._future.add_done_callback(_look_at)
        if not self._future.done():
            self._is_hung = True
            self._pool.hangs(self._of)

    def _work(self) -> None:
        try:
            result = self._function()
        except BaseException as error:  # noqa: BLE001  the thread's edge: whoever waits is told
            self._tell(self._failed, error)
        else:
            self._tell(self._done, result)

    def _tell(self, end: Callable[[Any], None], outcome: Any) -> None:
        with suppress(RuntimeError):  # the loop is closed: the process is about to end
            self._loop.call_soon_threadsafe(end, outcome)

    def _done(self, result: T) -> None:
        self._pool.ended(self._of, hung=self._is_hung)
        if not self._future.done():
            self._future.set_result(result)

    def _failed(self, error: BaseException) -> None:
        self._pool.ended(self._of, hung=self._is_hung)
        if not self._future.done():
            self._future.set_exception(error)


def _look_at(future: asyncio.Future[Any]) -> None:
    """Take note of an exception that nobody waits for, so that asyncio does not complain of it."""
    if not future.cancelled():
        future.exception()


async def in_thread(function: Callable[[], T], name: str) -> T:
    """Return `function()`, run on a thread of its own that nobody waits for at the end of the process: it may hang for ever."""
    loop = asyncio.get_running_loop()
    told: asyncio.Future[T] = loop.create_future()

    def tell(end: Callable[[Any], None], outcome: object) -> None:
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(lambda: None if told.done() else end(outcome))

    def run() -> None:
        try:
            result = function()
        except BaseException as error:  # noqa: BLE001  the thread's edge: handed to whoever waits
            tell(told.set_exception, error)
        else:
            tell(told.set_result, result)

    threading.Thread(target=run, name=name, daemon=True).start()
    return await told
