"""What outlives a supervisor: a few small facts of an attempt, each durable before its call returns (R3, R4, R8).

Calls may be made on any thread. They take about a millisecond, but wait for Ray's control store while that is away: so
a supervisor makes them on a thread, and its event loop, with the liveness server and the uplink on it, goes on meanwhile.
"""

from __future__ import annotations

import secrets
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["Inherited", "Journal"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Inherited:
    """What a supervisor finds of those before it."""

    incarnation: int
    wanted: int | None
    run_id: str
    # the newest generation: its number and members
    recorded: tuple[int, tuple[str, ...]] | None
    num_started: int
    # trainers that were no members when the last one was asked for, that one too
    waiting: tuple[str, ...]
    # checkpoint and step of another job that the run has begun from
    begun: tuple[str, int] | None
    expected: int | None
    finished: str | None

    @property
    def nothing(self) -> bool:
        """Whether the attempt begins with this supervisor."""
        return self.incarnation == 1 and self.recorded is None


class Journal(ABC):
    """The facts, over a store of named JSON values. One supervisor writes at a time."""

    def __init__(self) -> None:
        # what this supervisor wrote last: the same fact is not written twice
        self._written: dict[str, Any] = {}

    @abstractmethod
    def _get(self, name: str) -> Any: ...

    @abstractmethod
    def _put(self, name: str, value: Any) -> None: ...

    @abstractmethod
    def _remove(self, name: str) -> None: ...

    @abstractmethod
    def _names(self, prefix: str) -> list[str]: ...

    @abstractmethod
    def forget(self) -> None:
        """Remove all of it."""

    def take_over(self) -> Inherited:
        """Count a supervisor more, and tell it all that it must know of those before."""
        return Inherited(
            incarnation=self.next_incarnation(),
            wanted=self.wanted(),
            run_id=self.run_id(),
            recorded=self.recorded(),
            num_started=self.num_started(),
            waiting=self.waiting(),
            begun=self.begun(),
            expected=self.expected(),
            finished=self.finished(),
        )

    def next_incarnation(self) -> int:
        """Count the supervisors of this attempt: 1 for the first."""
        return self._count("incarnation")

    def incarnation(self) -> int:
        """The newest supervisor's; another than one's own: one is out."""
        return self._get("incarnation") or 0

    def reserve(self) -> int:
        """Return the next generation number, never to be given out again (R3)."""
        return self._count("number")

    def record(self, number: int, members: tuple[str, ...]) -> None:
        """Note the newest generation; a restarted supervisor takes none but its members for survivors (R4)."""
        self._put("generation", [number, list(members)])

    def recorded(self) -> tuple[int, tuple[str, ...]] | None:
        """The generation noted last."""
        found = self._get("generation")
        return None if found is None else (found[0], tuple(found[1]))

    def start(self, num_started: int, waiting: Sequence[str] = ()) -> None:
        """Note how many trainers were ever asked for, before the last of them is: names are not used again. And which are no members."""
        self._note("waiting", list(waiting))
        self._note("started", num_started)

    def waiting(self) -> tuple[str, ...]:
        """Those that were no members then."""
        return tuple(self._get("waiting") or ())

    def num_started(self) -> int:
        """The number noted last; 0: none."""
        return self._get("started") or 0

    def listen(self, host: str, port: int, secret: str) -> None:
        """Note where trainers' watchdogs beat to, and the secret that they know."""
        self._put("pulse", [host, port, secret])

    def listening(self) -> tuple[str, int, str] | None:
        """Where the supervisor before this one listened."""
        found = self._get("pulse")
        return None if found is None else tuple(found)

    def begin(self, url: str, step: int) -> None:
        """Note which checkpoint of another job the run has begun from, and its step. The first stands."""
        if self.begun() is None:
            self._put("begun", [url, step])

    def begun(self) -> tuple[str, int] | None:
        """Both, once noted."""
        found = self._get("begun")
        return None if found is None else (found[0], found[1])

    def once(self, done: Sequence[str], running: Mapping[str, str]) -> None:
        """Note what is done of what is done once, and by key who may still be at what is not."""
        self._put("once", [list(done), dict(running)])

    def onced(self) -> tuple[list[str], dict[str, str]]:
        """Both, as noted last."""
        found = self._get("once") or [[], {}]
        return found[0], found[1]

    def run_id(self) -> str:
        """A name of the attempt that nothing else has, on no node; the same for every supervisor."""
        if self._get("run id") is None:
            self._put("run id", secrets.token_hex(8))
        found: str = self._get("run id")
        return found

    def want(self, trainers: int) -> None:
        """Note how many trainers are wanted since the last resize."""
        self._note("wanted", trainers)

    def wanted(self) -> int | None:
        """The number noted last; None: it was never resized."""
        trainers: int | None = self._get("wanted")
        return trainers

    def expect(self, num_steps: int) -> None:
        """Note how many steps there are, and so how many rows must be stored."""
        self._note("expected", num_steps)

    def expected(self) -> int | None:
        """The number, once noted."""
        num_steps: int | None = self._get("expected")
        return num_steps

    def finish(self, outcome: str) -> None:
        """Note that the run is complete, before anyone is told to exit (R8). The first outcome stands."""
        if self.finished() is None:
            self._put("outcome", outcome)

    def finished(self) -> str | None:
        """The outcome, once noted."""
        outcome: str | None = self._get("outcome")
        return outcome

    def keep(self, events: Sequence[str]) -> str:
        """Keep events until they are stored elsewhere. Returns what `drop` takes. One call at a time."""
        # by the clock, for the order among supervisors: it need not be read and written, as a count
        key = f"events:{time.time_ns():020d}"
        self._put(key, list(events))
        return key

    def drop(self, keys: Sequence[str]) -> None:
        """Forget kept events: they are stored."""
        for key in keys:
            self._remove(key)

    def kept(self) -> list[tuple[str, list[str]]]:
        """What was kept and not dropped, oldest first, with the key of each."""
        return [(key, self._get(key) or []) for key in sorted(self._names("events:"))]

    def _note(self, name: str, value: Any) -> None:
        if self._written.get(name) != value:
            self._put(name, value)
            self._written[name] = value

    def _count(self, name: str) -> int:
        value: int = (self._get(name) or 0) + 1
        self._put(name, value)
        return value
