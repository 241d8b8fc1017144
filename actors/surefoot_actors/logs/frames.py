"""What a process printed, as it travels: frames of numbered lines, kept until they are stored. Pure; standard library only.

A frame is never cut or joined again: (source, first line's number) is its natural key, so one that is sent twice is stored once. Its
content is compressed JSON lines, a run of lines that share time, step and stream each; whoever relays it does not look inside.
"""

from __future__ import annotations

import json
import zlib
from collections import deque
from typing import NamedTuple

__all__ = ["FRAME_BYTES", "LOST", "Frame", "Frames"]

# text of a frame: what has come is closed into one at this size
FRAME_BYTES = 256 * 1024
# compressed frames that wait to be stored, in all
_KEPT_BYTES = 8 * 1024 * 1024
# the stream of lines that are ours
LOST = "surefoot"


class Frame(NamedTuple):
    """Lines `first` to `first + count - 1` of a source."""

    first: int
    lines: int
    content: bytes
    # of the content, unpacked
    text_bytes: int

    @property
    def end(self) -> int:
        return self.first + self.lines


class Frames:
    """The lines of one source: those that are stored are forgotten, and the oldest where too many wait."""

    def __init__(self, kept_bytes: int = _KEPT_BYTES) -> None:
        self._most_bytes = kept_bytes
        self._runs: list[str] = []
        self._size = self._count = 0
        self._next = 1
        self._waiting: deque[Frame] = deque()
        self._waiting_bytes = 0
        self._lost = 0
        # the newest time that was told: a clock that is set back must not put later lines before earlier ones
        self._at_ms = 0

    @property
    def open_bytes(self) -> int:
        """Text that is in no frame yet."""
        return self._size

    @property
    def empty(self) -> bool:
        return not self._waiting and not self._count

    @property
    def waiting(self) -> tuple[Frame, ...]:
        """Frames that are not stored, oldest first."""
        return tuple(self._waiting)

    def add(self, text: str, *, at_ms: int, step: int, stream: str) -> None:
        """Append whole lines."""
        self._at_ms = max(at_ms, self._at_ms)
        self._runs.append(_run(text, self._at_ms, step, stream))
        self._count += text.count("\n")
        self._size += len(text)

    def close(self) -> None:
        """Make a frame of what is in none; the oldest go where more wait than are kept."""
        if self._lost:
            self._tell_lost()
        if not self._count:
            return
        text = "\n".join(self._runs).encode("utf-8", "replace")
        content = zlib.compress(text, 1)
        self._waiting.append(Frame(self._next, self._count, content, len(text)))
        self._waiting_bytes += len(content)
        self._next += self._count
        self._runs, self._size, self._count = [], 0, 0
        while self._waiting_bytes > self._most_bytes and len(self._waiting) > 1:
            self._lost += self._forget_first().lines

    def _tell_lost(self) -> None:
        """Begin the frame with a line that says how many are missing before it."""
        text = f"{self._lost} lines before this one were lost: they could not be shipped in time\n"
        self._runs.insert(0, _run(text, self._at_ms, -1, LOST))
        self._count, self._lost = self._count + 1, 0

    def stored(self, below: int) -> None:
        """Lines with numbers below this are stored; an older answer does no harm."""
        while self._waiting and self._waiting[0].end <= below:
            self._forget_first()

    def _forget_first(self) -> Frame:
        frame = self._waiting.popleft()
        self._waiting_bytes -= len(frame.content)
        return frame


def _run(text: str, at_ms: int, step: int, stream: str) -> str:
    return json.dumps({"t": at_ms, "s": step, "f": stream, "x": text}, ensure_ascii=False, separators=(",", ":"))
