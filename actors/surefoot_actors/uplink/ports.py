"""The supervisor's line to the control plane: events and ledger rows go up, commands come down.

Nothing is forgotten before it is acknowledged; keys are natural, (source, n) and (step), so what is sent twice is
stored once.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from typing import Protocol

from pydantic import JsonValue

from surefoot.events import Command, EventKind, LedgerRow
from surefoot.system import SystemSample

__all__ = ["SecretsAwayError", "Uplink"]


class SecretsAwayError(Exception):
    """The control plane does not tell the job's secrets, at present; the message says why."""


class Uplink(Protocol):
    """Called on one event loop."""

    # set when the control plane no longer knows this attempt, or no longer wants it: the attempt is to end
    gone: asyncio.Event
    # why, in a sentence
    gone_reason: str
    # takes the job's secrets out of what events tell
    mask: Callable[[JsonValue], JsonValue]

    @property
    def rows_below(self) -> int:
        """Every ledger row of a step below this is stored."""

    def event(self, kind: EventKind, /, **data: JsonValue) -> None:
        """Tell that something happened. Returns at once; sent in order, kept until stored."""

    def rows(self, rows: Iterable[LedgerRow]) -> None:
        """Tell ledger rows, in any order, doubled or not. Returns at once; kept until stored."""

    def system(self, sample: SystemSample) -> None:
        """Tell what a trainer uses. Returns at once; sent with what is sent next, or a little later; lost where that fails."""

    def commands(self) -> AsyncIterator[Command]:
        """Yield commands as they come, each once, in order; ends when `gone` is set."""

    async def secrets(self) -> dict[str, str]:
        """Return the values of the job's secrets as they are now, by environment variable. Raises SecretsAwayError where nobody tells."""

    async def flush(self, deadline_s: float) -> bool:
        """Wait until all is stored. False where that did not happen within `deadline_s`, or `gone` is set."""

    async def close(self) -> None:
        """Stop sending and fetching; what is not stored by now is lost."""
