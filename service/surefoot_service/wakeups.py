"""Wake-ups inside one process: who waits for a job's news is woken at once instead of asking again and again.

A bell carries no news, only that there may be some: whoever hears it reads the store. So a bell rung for nothing is harmless, and
with several replicas on one database a waiter still looks again at its own bound.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["HOUSEKEEPING", "RECONCILER", "Bells", "Listener", "commands_of", "news_of"]

# the reconciler's topic: something it may have to act on
RECONCILER = "reconciler"
# the housekeeper's: something of a deleted job is left to be removed
HOUSEKEEPING = "housekeeping"


def news_of(job: str) -> str:
    """The topic of a job's events, rows and state."""
    return f"news:{job}"


def commands_of(job: str) -> str:
    """The topic of a job's commands."""
    return f"commands:{job}"


class Listener:
    """One waiter. Made before reading the store, so that nothing told in between is missed."""

    def __init__(self, bells: Bells) -> None:
        self._bells, self._rung = bells, asyncio.Event()

    def ring(self) -> None:
        self._rung.set()

    async def wait(self, timeout_s: float | None) -> bool:
        """Return whether the bell rang, then hear the next; False after `timeout_s`, or when the service closes."""
        if self._bells.closed:
            return False
        try:
            async with asyncio.timeout(timeout_s):
                await self._rung.wait()
        except TimeoutError:
            return False
        self._rung.clear()
        return not self._bells.closed


class Bells:
    """All waiters of this process, by topic. Used from the event loop's thread only."""

    def __init__(self) -> None:
        self._listeners: dict[str, set[Listener]] = defaultdict(set)
        self.closed = False

    def ring(self, *topics: str) -> None:
        """Wake everyone who listens to one of the topics."""
        for topic in topics:
            for listener in self._listeners.get(topic, ()):
                listener.ring()

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
        self.ring(*self._listeners)
