"""What the service needs to do its work, looked at: each probe by itself, bounded in time, and one of a kind at a time.

A probe of something that hangs is waited for once, however often it is asked for: it never takes more than one thread.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

import structlog

from surefoot.views import Check

__all__ = ["NotReadyError", "Probe", "Readiness"]

# how long whoever asks waits for probes, and for how long an answer is good enough for the next
_WAIT_S = 2.0
_FRESH_S = 1.0

log = structlog.get_logger()

Probe = Callable[[], Awaitable[None]]


class NotReadyError(Exception):
    """What is wrong, in a sentence that anybody may read."""


@dataclass(slots=True, kw_only=True)
class _Look:
    """One run of a probe."""

    task: asyncio.Task[str]
    began: float
    ended: float | None = None


@dataclass(slots=True, kw_only=True)
class Readiness:
    """The probes of one service, by name."""

    probes: Mapping[str, Probe] = field(default_factory=dict)
    wait_s: float = _WAIT_S
    fresh_s: float = _FRESH_S
    _looks: dict[str, _Look] = field(default_factory=dict)

    async def look(self) -> tuple[Check, ...]:
        """Say of each what is wrong with it, in a bounded time: what has not answered by then is wrong too."""
        clock = asyncio.get_running_loop().time
        for name, probe in self.probes.items():
            look = self._looks.get(name)
            if look is None or (look.ended is not None and clock() - look.ended > self.fresh_s):
                self._looks[name] = self._begin(name, probe)
        await asyncio.wait([look.task for look in self._looks.values()], timeout=self.wait_s)
        return tuple(self._check(name, look, clock()) for name, look in self._looks.items())

    def close(self) -> None:
        """Forget what is still being looked at."""
        for look in self._looks.values():
            look.task.cancel()

    def _begin(self, name: str, probe: Probe) -> _Look:
        clock = asyncio.get_running_loop().time
        look = _Look(task=asyncio.create_task(_words_of(name, probe), name=f"ready-{name}"), began=clock())

        def done(_task: asyncio.Task[str]) -> None:
            look.ended = clock()

        look.task.add_done_callback(done)
        return look

    @staticmethod
    def _check(name: str, look: _Look, now: float) -> Check:
        if not look.task.done():
            return Check(name=name, ok=False, detail=f"it has not answered for {now - look.began:.0f} s")
        return Check(name=name, ok=not look.task.result(), detail=look.task.result())


async def _words_of(name: str, probe: Probe) -> str:
    """What is wrong; empty: nothing."""
    try:
        await probe()
    except NotReadyError as error:
        log.warning("not_ready", what=name, reason=str(error), error=repr(error.__cause__))
        return str(error)
    except Exception as error:
        # The boundary to whatever is behind a probe: it is not ready, and why is for the log.
        log.warning("not_ready", what=name, exc_info=error)
        return "it could not be looked at; the service's log says why"
    return ""
