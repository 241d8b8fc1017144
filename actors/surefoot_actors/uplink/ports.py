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
from surefoot_actors.uplink.spool import Spool

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
    """What is not yet stored, in order: no network. Events by number, ledger rows by step (R10); however many, in bounded memory."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.rows_below = 0
        self._n = 0
        # a supervisor's own events at their numbers; those of the ones before at numbers below 1, in their order
        self._events, self._adopted = Spool(), dict[tuple[str, int], int]()
        self._rows = Spool()
        # steps at or above rows_below that are stored already: there is a gap below them
        self._stored: set[int] = set()

    @property
    def empty(self) -> bool:
        return self._events.empty and self._rows.empty

    def event(self, kind: EventKind, data: dict[str, JsonValue], at: datetime) -> Event:
        self._n += 1
        # A traceback may be of any length, a value be no number: what the control plane would refuse is cut here.
        event = Event(source=self.source, n=self._n, at=at, kind=kind, data=fit_object(data))
        self._events.add(event.n, event.model_dump_json().encode())
        return event

    def adopt(self, events: Iterable[Event]) -> None:
        """Send what an earlier supervisor could not, first, and under its own name and numbers."""
        events = list(events)
        for place, event in enumerate(events, start=min(self._adopted.values(), default=1) - len(events)):
            self._adopted[event.source, event.n] = place
            self._events.add(place, event.model_dump_json().encode())

    def rows(self, rows: Iterable[LedgerRow]) -> None:
        for row in rows:
            step = row.result.step
            if step >= self.rows_below and step not in self._stored:
                self._rows.add(step, row.model_dump_json().encode())

    def batch(self, most: int) -> SentBatch:
        """The oldest of what is to be sent, at most `most` of each."""
        events = tuple(Event.model_validate_json(line) for _, line in self._events.page(most=most))
        rows = tuple(LedgerRow.model_validate_json(line) for _, line in self._rows.page(most=most))
        return SentBatch(events=events, rows=rows)

    def stored(self, batch: SentBatch, rows_below: int) -> None:
        """Forget a batch that is stored; an older answer does no harm."""
        places = (self._place(event) for event in batch.events)
        self._events.drop(place for place in places if place is not None)
        self.rows_below = max(self.rows_below, rows_below)
        stored = {row.result.step for row in batch.rows}
        self._stored = {step for step in self._stored | stored if step >= self.rows_below}
        self._rows.drop_below(self.rows_below)
        self._rows.drop(stored)

    def _place(self, event: Event) -> int | None:
        return event.n if event.source == self.source else self._adopted.pop((event.source, event.n), None)


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
