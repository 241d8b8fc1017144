"""The supervisor's line to the control plane: events and ledger rows go up, commands come down.

Nothing is forgotten before it is acknowledged; keys are natural, (source, n) and (step), so what is sent twice is
stored once.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from datetime import UTC, datetime
from typing import Protocol

from pydantic import JsonValue

from surefoot.bounds import fit
from surefoot.events import Command, Event, EventKind, LedgerRow, SentBatch

__all__ = ["MemoryUplink", "Outbox", "Uplink"]


class Uplink(Protocol):
    """Called on one event loop."""

    # set when the control plane no longer knows this attempt, or no longer wants it: the attempt is to end
    gone: asyncio.Event
    # why, in a sentence
    gone_reason: str

    @property
    def rows_below(self) -> int:
        """Every ledger row of a step below this is stored."""

    def event(self, kind: EventKind, /, **data: JsonValue) -> None:
        """Tell that something happened. Returns at once; sent in order, kept until stored."""

    def rows(self, rows: Iterable[LedgerRow]) -> None:
        """Tell ledger rows, in any order, doubled or not. Returns at once; kept until stored."""

    def commands(self) -> AsyncIterator[Command]:
        """Yield commands as they come, each once, in order; ends when `gone` is set."""

    async def flush(self, deadline_s: float) -> bool:
        """Wait until all is stored. False where that did not happen within `deadline_s`, or `gone` is set."""

    async def close(self) -> None:
        """Stop sending and fetching; what is not stored by now is lost."""


class Outbox:
    """What is not yet stored, in order: pure. Events by number, ledger rows by step (R10)."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.rows_below = 0
        self._n = 0
        self._events: list[Event] = []
        self._rows: dict[int, LedgerRow] = {}
        # steps at or above rows_below that are stored already: there is a gap below them
        self._stored: set[int] = set()

    @property
    def empty(self) -> bool:
        return not self._events and not self._rows

    def event(self, kind: EventKind, data: dict[str, JsonValue], at: datetime) -> Event:
        self._n += 1
        # A traceback may be of any length, a value be no number: what the control plane would refuse is cut here.
        event = Event(source=self.source, n=self._n, at=at, kind=kind, data=fit_object(data))
        self._events.append(event)
        return event

    def adopt(self, events: Iterable[Event]) -> None:
        """Send what an earlier supervisor could not, first, and under its own name and numbers."""
        self._events[:0] = events

    def rows(self, rows: Iterable[LedgerRow]) -> None:
        for row in rows:
            step = row.result.step
            if step >= self.rows_below and step not in self._stored:
                self._rows[step] = row

    def batch(self, most: int) -> SentBatch:
        """The oldest of what is to be sent, at most `most` of each."""
        steps = sorted(self._rows)[:most]
        return SentBatch(events=tuple(self._events[:most]), rows=tuple(self._rows[step] for step in steps))

    def stored(self, batch: SentBatch, rows_below: int) -> None:
        """Forget a batch that is stored; an older answer does no harm."""
        stored = {(event.source, event.n) for event in batch.events}
        self._events = [event for event in self._events if (event.source, event.n) not in stored]
        self.rows_below = max(self.rows_below, rows_below)
        self._stored = {step for step in self._stored | {r.result.step for r in batch.rows} if step >= self.rows_below}
        self._rows = {
            step: row for step, row in self._rows.items() if step >= self.rows_below and step not in self._stored
        }


def fit_object(data: dict[str, JsonValue]) -> dict[str, JsonValue]:
    """The same as the control plane takes it: a message may name a file whose name is no text."""
    found = fit(data)
    assert isinstance(found, dict)
    return found


class MemoryUplink:
    """Keeps all that it is told: for `surefoot check` and tests. `command` feeds commands."""

    def __init__(self, source: str = "supervisor-1") -> None:
        self.gone = asyncio.Event()
        self.gone_reason = ""
        self.events: list[Event] = []
        self.ledger: dict[int, LedgerRow] = {}
        self.rows_below = 0
        self._source = source
        self._commands: asyncio.Queue[Command] = asyncio.Queue()
        self._changed = asyncio.Event()

    def event(self, kind: EventKind, /, **data: JsonValue) -> None:
        n = len(self.events) + 1
        self.events.append(Event(source=self._source, n=n, at=datetime.now(UTC), kind=kind, data=data))
        if kind is EventKind.RESTORED:
            self.rows_below = max(self.rows_below, int(str(data.get("first_step", 0))))
        self._changed.set()

    def rows(self, rows: Iterable[LedgerRow]) -> None:
        self.ledger.update((row.result.step, row) for row in rows)
        while self.rows_below in self.ledger:
            self.rows_below += 1
        self._changed.set()

    async def changed(self) -> None:
        """Wait for the next event or row. For one waiter."""
        self._changed.clear()
        await self._changed.wait()

    def command(self, command: Command) -> None:
        """Have `commands` yield it."""
        self._commands.put_nowait(command)

    async def commands(self) -> AsyncIterator[Command]:
        while True:
            yield await self._commands.get()

    async def flush(self, deadline_s: float) -> bool:
        return True

    async def close(self) -> None:
        pass
