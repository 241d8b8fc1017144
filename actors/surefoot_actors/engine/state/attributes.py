"""Plain attributes of tracked objects (`dropout.p = 0.1`, a counter in an optimizer) that the loop changes: given to joiners too.

They are no part of digests: what the code of a module changes in a sub-task, a cache say, may differ from trainer to trainer without
harm. What changes in the first rounds is taken for that, and left alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

__all__ = ["Attributes"]

_PLAIN = (bool, int, float, str, type(None))
# kept by their owners' restore
_KNOWN_ELSEWHERE = frozenset(("training",))

Key = tuple[int, str]


class Attributes:
    """The plain attributes of some objects, compared with what they were when it was made."""

    def __init__(self, owners: Iterable[object]) -> None:
        self._owners = [vars(owner) for owner in owners if hasattr(owner, "__dict__")]
        self._first = self._now()
        # those that the objects' own code changes in sub-tasks
        self._left_alone: set[Key] = set()
        self._before: dict[Key, Any] = {}

    def _now(self) -> dict[Key, Any]:
        found: dict[Key, Any] = {}
        for i, attributes in enumerate(self._owners):
            for name, value in attributes.items():
                kind = type(value)
                if kind in _PLAIN and name not in _KNOWN_ELSEWHERE:
                    found[i, name] = value
                elif kind in (list, tuple) and len(value) <= 64 and all(type(v) in _PLAIN for v in value):
                    found[i, name] = kind(value)
        return found

    def begin_round(self) -> None:
        """A round begins, in which what changes is the objects' own business."""
        self._before = self._now()

    def end_round(self) -> None:
        """Leave alone from now on what has changed in the round."""
        now = self._now()
        self._left_alone.update(
            key for key in now.keys() | self._before.keys() if _differ(now.get(key), self._before.get(key))
        )

    def changed(self) -> dict[Key, Any]:
        """Return what the loop has changed so far, by the owner's number and the attribute's name."""
        return {
            key: value
            for key, value in self._now().items()
            if key not in self._left_alone and (key not in self._first or _differ(value, self._first[key]))
        }

    def restore(self, changed: Mapping[Key, Any]) -> None:
        """Give attributes the values that they have elsewhere."""
        for (i, name), value in changed.items():
            if i < len(self._owners):
                self._owners[i][name] = value


def _differ(one: Any, other: Any) -> bool:
    return type(one) is not type(other) or (one != other and not (one != one and other != other))  # NaN is itself
