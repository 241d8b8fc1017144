"""What outlives a supervisor: a few small facts of an attempt, each durable before its call returns (R3, R4, R8)."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from typing import Any, Protocol

__all__ = ["Journal", "MemoryJournal", "RayJournal"]


class Journal(Protocol):
    """The facts. One supervisor writes at a time; calls take about a millisecond."""

    def next_incarnation(self) -> int:
        """Count the supervisors of this attempt: 1 for the first."""

    def reserve(self) -> int:
        """Return the next generation number, never to be given out again (R3)."""

    def record(self, number: int, members: tuple[str, ...]) -> None:
        """Note the newest generation; a restarted supervisor takes none but its members for survivors (R4)."""

    def recorded(self) -> tuple[int, tuple[str, ...]] | None:
        """The generation noted last."""

    def finish(self, outcome: str) -> None:
        """Note that the run is complete, before anyone is told to exit (R8)."""

    def finished(self) -> str | None:
        """The outcome, once noted."""

    def forget(self) -> None:
        """Remove all of it."""


class _Journal(ABC):
    """The facts over a store of named JSON values."""

    @abstractmethod
    def _get(self, name: str) -> Any: ...

    @abstractmethod
    def _put(self, name: str, value: Any) -> None: ...

    @abstractmethod
    def forget(self) -> None: ...

    def next_incarnation(self) -> int:
        return self._count("incarnation")

    def reserve(self) -> int:
        return self._count("number")

    def record(self, number: int, members: tuple[str, ...]) -> None:
        self._put("generation", [number, list(members)])

    def recorded(self) -> tuple[int, tuple[str, ...]] | None:
        found = self._get("generation")
        return None if found is None else (found[0], tuple(found[1]))

    def finish(self, outcome: str) -> None:
        self._put("outcome", outcome)

    def finished(self) -> str | None:
        outcome: str | None = self._get("outcome")
        return outcome

    def _count(self, name: str) -> int:
        value: int = (self._get(name) or 0) + 1
        self._put(name, value)
        return value


class MemoryJournal(_Journal):
    """For a supervisor that lives no longer than its process: `surefoot check`, tests."""

    def __init__(self) -> None:
        self._values: dict[str, str] = {}

    def _get(self, name: str) -> Any:
        return json.loads(self._values.get(name, "null"))

    def _put(self, name: str, value: Any) -> None:
        self._values[name] = json.dumps(value)

    def forget(self) -> None:
        self._values.clear()


class RayJournal(_Journal):
    """In Ray's control store (GCS): as durable as Ray's own knowledge of the actors."""

    _NAMESPACE = b"surefoot"

    def __init__(self, attempt: str) -> None:
        self._prefix = f"journal:{attempt}:"

    def _get(self, name: str) -> Any:
        from ray.experimental.internal_kv import _internal_kv_get

        return json.loads(_internal_kv_get(self._key(name), namespace=self._NAMESPACE) or b"null")

    def _put(self, name: str, value: Any) -> None:
        from ray.experimental.internal_kv import _internal_kv_put

        _internal_kv_put(self._key(name), json.dumps(value).encode(), overwrite=True, namespace=self._NAMESPACE)

    def forget(self) -> None:
        from ray.experimental.internal_kv import _internal_kv_del

        _internal_kv_del(self._prefix, del_by_prefix=True, namespace=self._NAMESPACE)

    def _key(self, name: str) -> bytes:
        return (self._prefix + name).encode()
