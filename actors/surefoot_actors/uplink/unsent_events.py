"""Events that are told and not stored yet, kept in the journal: a supervisor that dies while the control plane is away loses none."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from pydantic import ValidationError

from surefoot.events import Event
from surefoot_actors.journal.journal import Journal
from surefoot_actors.process_log import log

__all__ = ["UnsentEvents"]


def _read(text: str) -> Event | None:
    """An event as a supervisor of any version kept it; None for what is none, which is lost rather than in everybody's way."""
    try:
        return Event.model_validate_json(text)
    except ValidationError as error:
        log.warning("kept_event_lost", error=str(error))
        return None


class UnsentEvents:
    """Writes events to the journal behind the event loop's back, as fast as it takes them, and drops them once they are stored."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._new: list[Event] = []
        # by the journal's key: those of its events that are not stored
        self._open: dict[str, set[tuple[str, int]]] = {}
        self._stored: set[tuple[str, int]] = set()
        self._changed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> list[Event]:
        """Return what earlier supervisors left, oldest first; begin to keep."""
        kept = await asyncio.to_thread(self._journal.kept)
        left = [(key, [event for text in texts if (event := _read(text)) is not None]) for key, texts in kept]
        self._open = {key: {(event.source, event.n) for event in events} for key, events in left}
        self._task = asyncio.create_task(self._keep(), name="kept-events")
        return [event for _, events in left for event in events]

    def add(self, event: Event) -> None:
        """Keep an event, soon: this returns at once."""
        self._new.append(event)
        self._changed.set()

    def stored(self, events: Iterable[Event]) -> None:
        """Drop events, soon."""
        self._stored.update((event.source, event.n) for event in events)
        if self._stored:
            self._changed.set()

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})

    async def _keep(self) -> None:
        while True:
            await self._changed.wait()
            self._changed.clear()
            try:
                await self._write()
            except Exception as error:  # noqa: BLE001  the task's edge: what cannot be kept is still told, by this supervisor
                log.warning("events_not_kept", error=repr(error))

    async def _write(self) -> None:
        new, self._new = self._new, []
        if new := [event for event in new if (event.source, event.n) not in self._stored]:
            key = await asyncio.to_thread(self._journal.keep, [event.model_dump_json() for event in new])
            self._open[key] = {(event.source, event.n) for event in new}
        stored, self._stored = self._stored, set()
        self._new = [event for event in self._new if (event.source, event.n) not in stored]
        self._open = {key: left - stored for key, left in self._open.items()}
        if done := [key for key, left in self._open.items() if not left]:
            await asyncio.to_thread(self._journal.drop, done)
            for key in done:
                del self._open[key]
