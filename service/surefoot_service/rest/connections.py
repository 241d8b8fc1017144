"""Which connections may stay: pure. Times are the event loop's, in seconds.

A connection is a stranger until one of its requests has brought a token. Where there are too many, the oldest stranger goes: silent ones
make room for whoever says something, and nobody with a token goes for one without.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Generic, Protocol, TypeVar

__all__ = ["Limits", "Phase", "Pool", "Standing"]


class Phase(Enum):
    """What a connection is doing."""

    # nothing of a request has come, or a part of its head
    WAITING = auto()
    # a request has come and is being answered
    ANSWERING = auto()
    # it is answered, and what is still sent of its body is thrown away
    DISCARDING = auto()
    # it closes as soon as the answer is on its way
    CLOSING = auto()


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How many connections there may be, and how long each may keep the service waiting."""

    most: int
    # beside those, for health and attempts alone
    kept: int
    request_s: float
    unread_s: float
    discard_s: float = 2.0


@dataclass(slots=True, kw_only=True)
class Standing:
    """Where one connection is."""

    since: float
    phase: Phase = Phase.WAITING
    # since when whoever asked leaves unread what is sent; None: it does not
    unread_since: float | None = None

    def turn(self, phase: Phase, now: float) -> None:
        self.phase, self.since = phase, now

    def overdue(self, limits: Limits, now: float) -> bool:
        """Whether it has kept the service waiting for too long."""
        if self.unread_since is not None and now - self.unread_since > limits.unread_s:
            return True
        match self.phase:
            case Phase.WAITING:
                return now - self.since > limits.request_s
            case Phase.DISCARDING:
                return now - self.since > limits.discard_s
            case Phase.CLOSING:
                return now - self.since > limits.unread_s
            case Phase.ANSWERING:
                return False


class Connection(Protocol):
    standing: Standing


C = TypeVar("C", bound=Connection)


@dataclass(slots=True, kw_only=True)
class Pool(Generic[C]):
    """All connections of a server, the oldest first."""

    limits: Limits
    strangers: dict[C, None] = field(default_factory=dict)
    known: dict[C, None] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.strangers) + len(self.known)

    def __iter__(self) -> Iterator[C]:
        yield from list(self.strangers)
        yield from list(self.known)

    @property
    def crowded(self) -> bool:
        """Whether the places that are kept for health and attempts are in use."""
        return len(self) > self.limits.most

    def add(self, connection: C) -> C | None:
        """Take in a new connection. Return the one that has to go for it, if any: it may be itself."""
        self.strangers[connection] = None
        if not self.crowded:
            return None
        oldest = next(iter(self.strangers))
        if oldest is not connection:
            return oldest
        idle = next((c for c in self.known if c.standing.phase is not Phase.ANSWERING), None)
        if idle is not None:
            return idle
        return connection if len(self) > self.limits.most + self.limits.kept else None

    def know(self, connection: C) -> None:
        """The connection has brought a token."""
        if connection in self.strangers:
            del self.strangers[connection]
            self.known[connection] = None

    def remove(self, connection: C) -> None:
        self.strangers.pop(connection, None)
        self.known.pop(connection, None)
