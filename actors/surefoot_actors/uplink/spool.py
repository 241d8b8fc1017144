"""What waits to be stored elsewhere: any number of numbered lines, in bounded memory, with a file behind it.

A control plane that is away for an hour leaves hundreds of thousands of ledger rows waiting, in the supervisor and in each trainer. The
newest few MiB of them are in memory, the rest in a temporary database of SQLite, which has no name and goes with its process: what waits
outlives nothing that memory would not, and who must outlive whom is settled elsewhere (every trainer has all rows; events are kept in
the journal).
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from surefoot_actors.process_log import log

__all__ = ["MEMORY_BYTES", "Spool"]

# above this much text in memory, all of it goes to the file
MEMORY_BYTES = 4 * 1024 * 1024
# SQLite's own cache of the file, in KiB
_CACHE_KIB = 2048
# lines that are read at a time: a millisecond, so that a training thread that adds one does not wait longer
_PAGE = 1000
# beside its text: what a line costs in memory
_OVERHEAD_BYTES = 150


class Spool:
    """Lines by number. Thread-safe; adding one to memory takes microseconds."""

    def __init__(self, memory_bytes: int = MEMORY_BYTES) -> None:
        self._lock = threading.Lock()
        self._most_bytes = memory_bytes
        self._recent: dict[int, bytes] = {}
        self._recent_bytes = 0
        # above this the recent ones go to the file; more than `memory_bytes` only while the file cannot take them
        self._spill_at = memory_bytes
        self._file: sqlite3.Connection | None = None

    def add(self, number: int, line: bytes) -> None:
        """Have a line wait, in place of one of the same number."""
        with self._lock:
            self._recent[number] = line
            self._recent_bytes += len(line) + _OVERHEAD_BYTES
            if self._recent_bytes > self._spill_at:
                self._spill()

    def page(self, start: int | None = None, most: int = _PAGE) -> list[tuple[int, bytes]]:
        """Return the lowest lines from number `start` on, at most `most`, in order."""
        with self._lock:
            low = -(2**63) if start is None else start
            found: dict[int, bytes] = {}
            if self._file is not None:
                query = "SELECT number, line FROM waiting WHERE number >= ? ORDER BY number LIMIT ?"
                found.update(self._file.execute(query, (low, most)))
            found.update((number, line) for number, line in self._recent.items() if number >= low)
        return [(number, found[number]) for number in sorted(found)[:most]]

    def lines(self, start: int | None = None, below: int | None = None) -> Iterator[tuple[int, bytes]]:
        """Yield lines in order, those that still wait when their turn comes."""
        while page := self.page(start):
            for number, line in page:
                if below is not None and number >= below:
                    return
                yield number, line
            start = page[-1][0] + 1

    @property
    def first(self) -> int | None:
        """The lowest number; None: nothing waits."""
        page = self.page(most=1)
        return page[0][0] if page else None

    @property
    def empty(self) -> bool:
        return self.first is None

    def drop_below(self, number: int) -> None:
        """Forget all lines below a number."""
        with self._lock:
            self._forget([n for n in self._recent if n < number])
            if self._file is not None:
                self._file.execute("DELETE FROM waiting WHERE number < ?", (number,))

    def drop(self, numbers: Iterable[int]) -> None:
        """Forget these lines."""
        numbers = list(numbers)
        with self._lock:
            self._forget(numbers)
            if self._file is not None:
                with _whole(self._file):
                    self._file.executemany("DELETE FROM waiting WHERE number = ?", [(n,) for n in numbers])

    @property
    def memory_bytes(self) -> int:
        """About how much of it is in memory."""
        return self._recent_bytes

    def _forget(self, numbers: Iterable[int]) -> None:
        for number in numbers:
            self._recent.pop(number, None)
        self._recent_bytes = sum(map(len, self._recent.values())) + _OVERHEAD_BYTES * len(self._recent)
        self._spill_at = max(self._most_bytes, min(self._spill_at, self._recent_bytes + self._most_bytes))

    def _spill(self) -> None:
        """Put all that is in memory into the file; what the file cannot take stays, and is tried again when as much more has come."""
        try:
            if self._file is None:
                self._file = _open()
            with _whole(self._file):
                self._file.executemany("INSERT OR REPLACE INTO waiting VALUES (?, ?)", self._recent.items())
        except sqlite3.Error as error:
            log.warning("waiting_rows_stay_in_memory", bytes=self._recent_bytes, error=str(error))
            self._spill_at = self._recent_bytes + self._most_bytes
            return
        self._recent, self._recent_bytes, self._spill_at = {}, 0, self._most_bytes


@contextmanager
def _whole(file: sqlite3.Connection) -> Iterator[None]:
    """Do all of the block's writes or none; no transaction is left open, which would refuse every later one."""
    file.execute("BEGIN")
    try:
        yield
        file.execute("COMMIT")
    except BaseException:
        if file.in_transaction:
            file.execute("ROLLBACK")
        raise


def _open() -> sqlite3.Connection:
    # "": a file without a name in the folder for temporary files, removed with the process, however that ends
    file = sqlite3.connect("", check_same_thread=False, isolation_level=None)
    # a write that fails (the disk is full) is taken back, which needs a journal, but no file of its own
    file.execute("PRAGMA journal_mode = MEMORY")
    file.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
    file.execute("CREATE TABLE waiting (number INTEGER PRIMARY KEY, line BLOB NOT NULL)")
    return file
