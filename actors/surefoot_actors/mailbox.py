"""What a trainer has to say, kept until it is acknowledged, so that a lost reply or supervisor loses nothing."""

from __future__ import annotations

import threading
import time
from collections import deque

from surefoot.events import LedgerRow
from surefoot_actors.cluster import Inbox
from surefoot_actors.protocol.messages import FromTrainer

__all__ = ["Mailbox"]

MAX_ROWS = 10_000
# When no row was acknowledged for this long, all that are kept are told again: the reply, or the supervisor, may be lost.
TELL_AGAIN_S = 5.0


class Mailbox:
    """Numbered messages and unacknowledged ledger rows. Thread-safe; `collect` is the only call that waits."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._messages: deque[tuple[int, FromTrainer]] = deque()
        self._count = 0
        self._rows: deque[LedgerRow] = deque()
        # rows of steps below this were told; when one was acknowledged last
        self._told_below, self._acknowledged_at = 0, 0.0

    def tell(self, message: FromTrainer) -> None:
        """Append a message and wake whoever collects."""
        with self._changed:
            self._count += 1
            self._messages.append((self._count, message))
            self._changed.notify_all()

    def keep(self, row: LedgerRow) -> None:
        """Append a ledger row; it wakes nobody, since rows travel by the second and not by the step."""
        self._rows.append(row)

    def kept(self) -> tuple[LedgerRow, ...]:
        """Return the ledger rows that are not acknowledged yet."""
        return tuple(self._rows.copy())

    def adopt(self, rows: tuple[LedgerRow, ...]) -> None:
        """Keep the rows of a peer, in place of those kept: this trainer goes on from where that one is."""
        self._rows = deque(rows)
        self._told_below = 0

    def collect(self, after: int, rows_below: int, wait_s: float, with_rows: bool) -> Inbox:
        """Forget what is acknowledged, then wait for a message with n > after, or `wait_s`."""
        end = time.monotonic() + wait_s
        with self._changed:
            while self._messages and self._messages[0][0] <= after:
                self._messages.popleft()
            while not self._messages and (left := end - time.monotonic()) > 0:
                self._changed.wait(left)
            messages = tuple(self._messages)
        if after == 0:  # a supervisor that has heard nothing of us yet
            self._told_below = 0
        self._forget_rows(rows_below, time.monotonic())
        return Inbox(messages=messages, rows=self._untold() if with_rows else ())

    def _forget_rows(self, below: int, now: float) -> None:
        if not self._rows or self._rows[0].result.step < below:
            self._acknowledged_at = now
        while self._rows and self._rows[0].result.step < below:
            self._rows.popleft()
        if now - self._acknowledged_at > TELL_AGAIN_S:
            self._told_below, self._acknowledged_at = 0, now

    def _untold(self) -> tuple[LedgerRow, ...]:
        rows = tuple(row for row in self._rows.copy() if row.result.step >= self._told_below)[:MAX_ROWS]
        if rows:
            self._told_below = rows[-1].result.step + 1
        return rows
