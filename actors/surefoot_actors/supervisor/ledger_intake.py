"""The supervisor's keeping of ledger rows: each is passed to the uplink once, and it is known when all have come."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable

from surefoot.events import LedgerRow
from surefoot_actors.uplink.ports import Uplink
from surefoot_actors.uplink.step_runs import StepRuns

__all__ = ["LedgerIntake"]


class LedgerIntake:
    """Passes each ledger row to the uplink once, and knows when all have come. Trainers tell a row until it is acknowledged."""

    def __init__(self, uplink: Uplink) -> None:
        self._uplink = uplink
        # those at or above `_below`: for a supervisor that was restarted, until it hears what is stored, all that come
        self._seen = StepRuns()
        self._below = 0
        self._expected: int | None = None
        self._changed = asyncio.Event()
        # the highest step of any row that was told
        self.newest: int | None = None
        # that the newest steps took
        self.seconds: deque[float] = deque(maxlen=50)
        self._generation: tuple[int, Callable[[LedgerRow], None]] | None = None

    @property
    def acknowledged_below(self) -> int:
        return self._uplink.rows_below

    def take(self, rows: tuple[LedgerRow, ...]) -> None:
        """Take rows that a trainer told; most of them may be known."""
        # what an earlier supervisor told is stored, and does not come again
        self._below = max(self._below, self._uplink.rows_below)
        new = [row for row in rows if row.result.step >= self._below and row.result.step not in self._seen]
        for row in new:
            self._seen.add(row.result.step)
        self._below = self._seen.next_absent(self._below)
        self._seen.drop_below(self._below)
        if new:
            self.newest = max(self.newest or 0, *(row.result.step for row in new))
            self.seconds.extend(row.circumstances.seconds for row in new)
            self._uplink.rows(new)
            self._watch(new)
        self._changed.set()

    def _watch(self, rows: list[LedgerRow]) -> None:
        if self._generation is None:
            return
        number, callback = self._generation
        first = next((row for row in rows if row.circumstances.generation >= number), None)
        if first is not None:
            self._generation = None
            callback(first)

    def when_generation(self, number: int, callback: Callable[[LedgerRow], None]) -> None:
        """Call back with the first new row of this generation or a later one."""
        self._generation = (number, callback)

    def begin(self, step: int) -> None:
        """The job's ledger begins at this step: those before it are another job's, from whose checkpoint this one began."""
        self._below = max(self._below, step)

    def expect(self, num_steps: int | None) -> None:
        """All rows are there when the steps 0..num_steps-1 have come."""
        self._expected = num_steps

    async def complete(self, within_s: float) -> bool:
        """Wait until every expected row has come."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                while self._expected is not None and self._below < self._expected:
                    self._changed.clear()
                    await self._changed.wait()
        return self._expected is None or self._below >= self._expected
