"""Floods of the same line of a log: counted, not written. Pure."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field

__all__ = ["Flood"]


@dataclass(slots=True, kw_only=True)
class _Line:
    began: float
    written: int = 0
    left_out: int = 0


@dataclass(slots=True, kw_only=True)
class Flood:
    """How often each line may be written: `burst` times in every `window_s`; the others are counted."""

    burst: int = 10
    window_s: float = 10.0
    # so many different lines are remembered
    most: int = 1000
    _lines: OrderedDict[str, _Line] = field(default_factory=OrderedDict)

    def admit(self, line: str, now: float) -> int | None:
        """Return how many of its kind were left out since the last one that was written; None: this one is left out too."""
        known = self._lines.setdefault(line, _Line(began=now))
        self._lines.move_to_end(line)
        if now - known.began >= self.window_s:
            known.began, known.written = now, 0
        if known.written >= self.burst:
            known.left_out += 1
            return None
        known.written += 1
        left_out, known.left_out = known.left_out, 0
        if len(self._lines) > self.most:
            self._lines.popitem(last=False)
        return left_out

    def untold(self, now: float) -> dict[str, int]:
        """Return what was left out of lines whose window is over, and forget it: nobody else will tell of it."""
        lines = self._lines.items()
        over = {name: line.left_out for name, line in lines if line.left_out and now - line.began >= self.window_s}
        for name in over:
            self._lines[name].left_out = 0
        return over
