"""An uplink that keeps what it is told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from datetime import UTC, datetime

from pydantic import JsonValue

from surefoot.events import Command, Event, EventKind, LedgerRow
from surefoot.system import SystemSample

__all__ = ["MemoryUplink"]


class MemoryUplink:
    """Keeps all that it is told: for `surefoot check` and tests. `command` feeds commands."""

    def __init__(self, source: str = "supervisor-1") -> None:
        self.gone = asyncio.Event()
        self.gone_reason = ""
        self.mask: Callable[[JsonValue], JsonValue] = lambda value: value
        # what `secrets` tells
        self.values: dict[str, str] = {}
        self.events: list[Event] = []
        self.ledger: dict[int, LedgerRow] = {}
        self.rows_below = 0
        self.samples: list[SystemSample] = []
        # printed lines, as they came
        self.told_logs: list[bytes] = []
        self._source = source
        self._commands: asyncio.Queue[Command] = asyncio.Queue()
        self._changed = asyncio.Event()

    def event(self, kind: EventKind, /, **data: JsonValue) -> None:
        n, data = len(self.events) + 1, {name: self.mask(value) for name, value in data.items()}
        self.events.append(Event(source=self._source, n=n, at=datetime.now(UTC), kind=kind, data=data))
        if kind is EventKind.RESTORED:
            self.rows_below = max(self.rows_below, int(str(data.get("first_step", 0))))
        self._changed.set()

    def rows(self, rows: Iterable[LedgerRow]) -> None:
        self.ledger.update((row.result.step, row) for row in rows)
        while self.rows_below in self.ledger:
            self.rows_below += 1
        self._changed.set()

    def system(self, sample: SystemSample) -> None:
        self.samples.append(sample)
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

    async def logs(self, body: bytes) -> bool:
        self.told_logs.append(body)
        return True

    async def secrets(self) -> dict[str, str]:
        return dict(self.values)

    async def flush(self, deadline_s: float) -> bool:
        return True

    async def close(self) -> None:
        pass
