"""Steps whose rows have come, in little memory. Pure."""

from __future__ import annotations

import math
from bisect import bisect_right

__all__ = ["StepRuns"]


class StepRuns:
    """A set of steps, kept as runs of neighbours: rows come nearly in order, so there are few, however long a missing one is."""

    def __init__(self) -> None:
        # (first, end), in order, none next to another
        self._runs: list[tuple[int, int]] = []

    def __contains__(self, step: int) -> bool:
        return self.next_absent(step) != step

    def __len__(self) -> int:
        """How many runs there are: what the set costs."""
        return len(self._runs)

    def next_absent(self, step: int) -> int:
        """The first step from this one on that is not in the set."""
        at = self._place(step)
        return max(step, self._runs[at - 1][1]) if at else step

    def add(self, step: int) -> None:
        if step in self:
            return
        at, first, end = self._place(step), step, step + 1
        if at < len(self._runs) and self._runs[at][0] == end:
            end = self._runs.pop(at)[1]
        if at and self._runs[at - 1][1] == first:
            at -= 1
            first = self._runs.pop(at)[0]
        self._runs.insert(at, (first, end))

    def drop_below(self, step: int) -> None:
        """Forget the runs that end at or below this step."""
        while self._runs and self._runs[0][1] <= step:
            self._runs.pop(0)

    def _place(self, step: int) -> int:
        """How many runs begin at or below it."""
        return bisect_right(self._runs, (step, math.inf))
