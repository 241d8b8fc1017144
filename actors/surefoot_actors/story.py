"""What a state machine was fed and what it commanded, most recently: for whoever looks for a fault in it afterwards.

The machines are pure, so this is all there is to know: played again, the same events lead to the same state.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable
from datetime import UTC, datetime

from surefoot_actors.process_log import say

__all__ = ["MAX_LINE_CHARS", "NUM_KEPT", "BrokenMachineError", "Story"]

# How many events are kept, and how long the line of one is at most.
NUM_KEPT = 50
MAX_LINE_CHARS = 500


class BrokenMachineError(Exception):
    """A state machine, or what performs its commands, raised: a fault of Surefoot. `story`: the last events, a line each, oldest first."""

    def __init__(self, reason: str, story: tuple[str, ...] = ()) -> None:
        super().__init__(f"a fault of Surefoot: {reason}")
        self.reason, self.story = reason, story

    def __reduce__(self) -> tuple[type[BrokenMachineError], tuple[str, tuple[str, ...]]]:
        return BrokenMachineError, (self.reason, self.story)


class Story:
    """A ring of (time, event, commands). Noting costs no more than keeping references: they become text when somebody asks.

    Not thread-safe but for single calls: whoever feeds the machine notes, under the lock that feeding takes.
    """

    def __init__(self) -> None:
        self._entries: deque[tuple[float, object, tuple[object, ...]]] = deque(maxlen=NUM_KEPT)

    def note(self, event: object, commands: Iterable[object] = ()) -> None:
        """Keep an event and what it led to; both are frozen values."""
        self._entries.append((time.time(), event, tuple(commands)))

    def lines(self) -> tuple[str, ...]:
        """Return a line an event, oldest first: the time (UTC), the event, and the commands after an arrow."""
        return tuple(_line(*entry) for entry in tuple(self._entries))

    def tell(self, who: str, error: BaseException) -> tuple[str, ...]:
        """Print the story to this process's log, beside what went wrong, and return its lines."""
        lines = self.lines()
        told = (
            f"a fault of Surefoot: {who}: {error!r}",
            "the last events, oldest first:",
            *(f"  {line}" for line in lines),
        )
        say("\n".join(told))
        return lines

    def broken(self, who: str, error: Exception) -> BrokenMachineError:
        """Return the error to raise where the event noted last could not be handled; the story is told."""
        return (
            error
            if isinstance(error, BrokenMachineError)
            else BrokenMachineError(f"{who}: {error!r}", self.tell(who, error))
        )


def _line(at: float, event: object, commands: tuple[object, ...]) -> str:
    told = f"{datetime.fromtimestamp(at, UTC):%H:%M:%S.%f} {event!r}"
    if commands:
        told += " -> " + ", ".join(map(repr, commands))
    return told if len(told) <= MAX_LINE_CHARS else told[: MAX_LINE_CHARS - 1] + "…"
