"""A journal in memory."""

from __future__ import annotations

import json
from typing import Any

from surefoot_actors.journal.journal import Journal

__all__ = ["MemoryJournal"]


class MemoryJournal(Journal):
    """For a supervisor that lives no longer than its process: `surefoot check`, tests."""

    def __init__(self) -> None:
        super().__init__()
        self._values: dict[str, str] = {}

    def _get(self, name: str) -> Any:
        return json.loads(self._values.get(name, "null"))

    def _put(self, name: str, value: Any) -> None:
        self._values[name] = json.dumps(value)

    def _remove(self, name: str) -> None:
        self._values.pop(name, None)

    def _names(self, prefix: str) -> list[str]:
        return [name for name in list(self._values) if name.startswith(prefix)]

    def forget(self) -> None:
        self._values.clear()
        self._written.clear()
