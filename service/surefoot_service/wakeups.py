"""Wake-ups inside one process: who waits for a job's news is woken at once instead of asking again and again.

A wake-up carries no news, only that there may be some: whoever is woken reads the store. So one for nothing is harmless, and
with several replicas on one database a waiter still looks again at its own bound.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["HOUSEKEEPING", "RECONCILER", "Listener", "Wakeups", "commands_of", "logs_of", "news_of"]

# the reconciler's topic: something it may have to act on
RECONCILER = "reconciler"
# the housekeeper's: something of a deleted job is left to be removed
HOUSEKEEPING = "housekeeping"


def news_of(job: str) -> str:
    """The topic of a job's events, rows and state."""
    return f"news:{job}"


def logs_of(job: str) -> str:
    """The topic of a job's printed lines."""
    return f"logs:{job}"


def commands_of(job: str) -> str:
    """The topic of a job's commands."""
    return f"commands:{job}"


class Listener:
    """One waiter. Made before reading the store, so that nothing told in between is missed."""

    def __init__(self, wakeups: Wakeups) -> None:
        self._wakeups, self._woken = wakeups, asyncio.Event()

    def wake(self) -> None:
        self._woken.set()

    async def wait(self, timeout_s: float | None) -> bool:
        """Return whether it was woken, then wait for the next; False after `timeout_s`, or when the service closes."""
        if self._wakeups.closed:
            return False
        try:
            async with asyncio.timeout(timeout_s):
                await self._woken.wait()
        except TimeoutError:
            return False
        self._woken.clear()
        return not self._wakeups.closed


class Wakeups:
    """All waiters of this process, by topic. Used from the event loop's thread only."""

    def __init__(self) -> None:
        self._listeners: dict[str, set[Listener]] = defaultdict(set)
        self.closed = False

    def wake(self, *topics: str) -> None:
        """Wake everyone who listens to one of the topics."""
        for topic in topics:
            for listener in self._listeners.get(topic, ()):
                listener.wake()

    @contextmanager
    def listen(self, topic: str) -> Iterator[Listener]:
        """Listen to a topic inside the block."""
        listener = Listener(self)
        self._listeners[topic].add(listener)
        try:
            yield listener
        finally:
            self._listeners[topic].discard(listener)
            if not self._listeners[topic]:
                del self._listeners[topic]

    @property
    def topics(self) -> frozenset[str]:
        """What somebody listens to now."""
        return frozenset(self._listeners)

    def close(self) -> None:
        """The service is ending: every waiter returns at once, and none waits again."""
        self.closed = True
        self.wake(*self._listeners)
