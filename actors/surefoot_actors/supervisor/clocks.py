"""The clocks of the membership machine's timers: what they are for, and how long, is decided by the machine."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from surefoot_actors.protocol.membership.machine import Timer, TimerFired

__all__ = ["Clocks"]


class Clocks:
    """Used on one event loop. A timer that is cancelled, or set anew, after its time was over and before that is handled, has not fired."""

    def __init__(self, happen: Callable[[TimerFired], None]) -> None:
        self._happen = happen
        self._running: dict[Timer, asyncio.TimerHandle] = {}
        # their time is over, and that is not handled yet
        self._over: set[Timer] = set()

    def set(self, timer: Timer, after_s: float) -> None:
        self.cancel(timer)
        self._running[timer] = asyncio.get_running_loop().call_later(after_s, self._end, timer)

    def cancel(self, timer: Timer) -> None:
        self._over.discard(timer)
        if (handle := self._running.pop(timer, None)) is not None:
            handle.cancel()

    def takes(self, fired: TimerFired) -> bool:
        """Whether this is still to be handled."""
        over = fired.timer in self._over
        self._over.discard(fired.timer)
        return over

    def close(self) -> None:
        for timer in Timer:
            self.cancel(timer)

    def _end(self, timer: Timer) -> None:
        del self._running[timer]
        self._over.add(timer)
        self._happen(TimerFired(timer))
