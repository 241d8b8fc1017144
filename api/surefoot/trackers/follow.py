"""Following a job's ledger into a tracker: every step once, in order, however often it is broken off.

How far it has come is what the tracker itself holds, so nothing can be written and then forgotten, or noted and then not written.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from surefoot.events import LedgerRow

__all__ = ["Tracker", "bring"]


class Tracker(Protocol):
    """Where points go. A step is written whole, or not at all."""

    def last_step(self) -> int:
        """Return the last step that is there; -1 before the first."""

    def write(self, row: LedgerRow) -> None:
        """Add the step's logged values."""

    def flush(self) -> None:
        """Have what was written be there, whatever happens to this process."""


def bring(rows: Iterable[LedgerRow], tracker: Tracker, *, flush_every: int = 200) -> int:
    """Write the rows that the tracker has not got, which come by step. Return how many there were."""
    last, written = tracker.last_step(), 0
    for row in rows:
        if row.unreadable or row.result.step <= last:
            continue
        tracker.write(row)
        last, written = row.result.step, written + 1
        if written % flush_every == 0:
            tracker.flush()
    tracker.flush()
    return written
