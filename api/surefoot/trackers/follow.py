"""Following a job's ledger into a tracker: every step once, in order, however often it is broken off.

How far it has come is what the tracker itself holds, so nothing can be written and then forgotten, or noted and then not written.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from queue import Empty, Queue
from threading import Event, Thread
from typing import Protocol

from surefoot.events import LedgerRow
from surefoot.spec import JobState
from surefoot.words import UnknownWord

__all__ = ["Brought", "Tracker", "as_they_come", "bring"]

# So many rows are read ahead of the tracker at the most.
_AHEAD = 1000


class Tracker(Protocol):
    """Where points go. What is there is there once, whatever is written again."""

    #: where a person looks at them: a URL, or how to see them
    where: str

    @property
    def renamed(self) -> Mapping[str, str]:
        """The values that the tracker does not allow to be called as they are -> what they are called there."""

    def last_step(self) -> int:
        """Return the last step that is there for certain with all its values; -1 before the first."""

    def write(self, row: LedgerRow) -> bool:
        """Add the step's logged values. Return whether there was anything to add."""

    def flush(self) -> None:
        """Have what was written be there, whatever happens to this process."""

    def close(self, outcome: JobState | UnknownWord | None = None) -> None:
        """Let go of the tracker. `outcome`: how the job has ended; None: it goes on, or nobody knows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Brought:
    """How far a tracker has come."""

    # how many steps were new to it
    written: int = 0
    # the last step that it has; -1: none
    last_step: int = -1


def bring(rows: Iterable[LedgerRow], tracker: Tracker) -> Brought:
    """Write the rows that the tracker has not got, which come by step.

    What has come is written together; whenever no more is there, it is flushed before waiting.
    """
    last, written = tracker.last_step(), 0
    for batch in as_they_come(rows):
        for row in batch:
            if not row.unreadable and row.result.step > last:
                written += tracker.write(row)
                last = row.result.step
        tracker.flush()
    return Brought(written=written, last_step=last)


def as_they_come(rows: Iterable[LedgerRow]) -> Iterator[list[LedgerRow]]:
    """Yield all the rows that have come so far, again and again: one who is slow gets more at once. Raises what `rows` raises."""
    reader = _Reader(rows)
    try:
        while not reader.done:
            yield reader.drained()
    finally:
        reader.stop()


class _Reader:
    """A thread that reads ahead of whoever takes the rows."""

    def __init__(self, rows: Iterable[LedgerRow]) -> None:
        self.done = False
        self._rows = rows
        # a row, or the end: an error or None
        self._queue: Queue[LedgerRow | BaseException | None] = Queue(_AHEAD)
        self._stopped = Event()
        Thread(target=self._read, name="surefoot-rows", daemon=True).start()

    def drained(self) -> list[LedgerRow]:
        """What has come; waits for one thing."""
        batch: list[LedgerRow] = []
        item = self._queue.get()
        while isinstance(item, LedgerRow):
            batch.append(item)
            try:
                item = self._queue.get_nowait()
            except Empty:
                return batch
        if isinstance(item, BaseException) and not batch:
            raise item
        if isinstance(item, BaseException):
            self._queue.put(item)  # for the next time: the thread has ended, so there is room
        self.done = item is None
        return batch

    def stop(self) -> None:
        """Nobody takes rows any more: the thread ends at the next one."""
        self._stopped.set()
        with suppress(Empty):
            while True:
                self._queue.get_nowait()

    def _read(self) -> None:
        end: BaseException | None = None
        try:
            for row in self._rows:
                self._queue.put(row)
                if self._stopped.is_set():
                    return
        except BaseException as error:  # noqa: BLE001  the thread's edge: it is raised where the rows are taken
            end = error
        self._queue.put(end)
