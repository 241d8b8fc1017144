"""What a trainer has to say, kept until it is acknowledged, so that a lost reply or supervisor loses nothing."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterable
from itertools import islice

from surefoot.events import LedgerRow
from surefoot.ledger import step_of
from surefoot_actors.cluster.ports import Inbox
from surefoot_actors.protocol.messages import FromTrainer
from surefoot_actors.uplink.kept_rows import KeptRows
from surefoot_actors.uplink.spool import Spool

__all__ = ["Mailbox"]

MAX_ROWS = 10_000
# When no row was acknowledged for this long, all that are kept are told again: the reply, or the supervisor, may be lost. Then after
# twice as long, and so on: for all of a control plane's absence no row is acknowledged.
TELL_AGAIN_S = 5.0
_TELL_AGAIN_AT_MOST_S = 320.0


class Mailbox:
    """Numbered messages and unacknowledged ledger rows. Thread-safe; `collect` is the only call that waits."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._messages: deque[tuple[int, FromTrainer]] = deque()
        self._count = 0
        self._rows, self._end = Spool(), 0
        # rows of steps below this were told; when one was acknowledged last, or all were to be told again; after how long they are
        self._told_below, self._acknowledged_at, self._patience_s = 0, 0.0, TELL_AGAIN_S

    def tell(self, message: FromTrainer) -> None:
        """Append a message and wake whoever collects."""
        with self._changed:
            self._count += 1
            self._messages.append((self._count, message))
            self._changed.notify_all()

    def keep(self, row: LedgerRow) -> None:
        """Append a ledger row; it wakes nobody, since rows travel by the second and not by the step."""
        self._rows.add(row.result.step, row.model_dump_json().encode())
        self._end = row.result.step + 1

    def kept(self) -> KeptRows:
        """Return the ledger rows that are not acknowledged yet."""
        return KeptRows(self._rows, self._end)

    def adopt(self, lines: Iterable[bytes]) -> None:
        """Keep the rows of a peer (each as JSON), in place of those kept: this trainer goes on from where that one is."""
        # another one, as whoever writes a checkpoint may still read those of before
        rows, end = Spool(), 0
        for line in lines:
            end = step_of(line) + 1
            rows.add(end - 1, line)
        self._rows, self._end = rows, end
        self._told_below, self._patience_s = 0, TELL_AGAIN_S

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
        first = self._rows.first
        if first is None or first < below:
            self._acknowledged_at, self._patience_s = now, TELL_AGAIN_S
            self._rows.drop_below(below)
        if now - self._acknowledged_at > self._patience_s:
            self._told_below, self._acknowledged_at = 0, now
            self._patience_s = min(2 * self._patience_s, _TELL_AGAIN_AT_MOST_S)

    def _untold(self) -> tuple[LedgerRow, ...]:
        lines = islice(self._rows.lines(self._told_below), MAX_ROWS)
        rows = tuple(LedgerRow.model_validate_json(line) for _, line in lines)
        if rows:
            self._told_below = rows[-1].result.step + 1
        return rows
