"""What is not stored yet, in order: no network."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from pydantic import JsonValue

from surefoot.bounds import fit
from surefoot.events import Event, EventKind, LedgerRow, SentBatch
from surefoot_actors.uplink.spool import Spool
from surefoot_actors.uplink.step_runs import StepRuns

__all__ = ["Outbox"]


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
        self._stored = StepRuns()

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
        stored = [row.result.step for row in batch.rows]
        for step in stored:
            self._stored.add(step)
        self._stored.drop_below(self.rows_below)
        self._rows.drop_below(self.rows_below)
        self._rows.drop(stored)

    def _place(self, event: Event) -> int | None:
        return event.n if event.source == self.source else self._adopted.pop((event.source, event.n), None)


def fit_object(data: dict[str, JsonValue]) -> dict[str, JsonValue]:
    """The same as the control plane takes it: a message may name a file whose name is no text."""
    found = fit(data)
    assert isinstance(found, dict)
    return found
