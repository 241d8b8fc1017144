"""Attributes of tracked objects, datasets and the user's own objects that the loop changes: joiners are given them too.

`dropout.p = 0.1`, `data.stage += 1`, a counter of bad steps. They are no part of digests: what the code of an object changes in a
sub-task, a cache say, may differ from trainer to trainer without harm. What changes in the first rounds is taken for that, and left
alone. So are objects of which only a part could be given: small values go, large ones do not.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from surefoot_actors.engine.state.small import PLAIN, differ, put_back, small

__all__ = ["Attributes"]

# kept by their owners' restore
_KNOWN_ELSEWHERE = frozenset(("training",))

Key = tuple[str, str]


class Attributes:
    """The attributes of some objects, by the objects' names, compared with what they were when this was made.

    Of what is tracked they are numbers and texts alone: the rest of it is state in its own right.
    """

    def __init__(self, tracked: Iterable[tuple[str, object]] = (), others: Iterable[tuple[str, object]] = ()) -> None:
        known = {path: vars(owner) for path, owner in tracked if hasattr(owner, "__dict__")}
        self._plain = frozenset(known)
        self._owners = known | {path: vars(owner) for path, owner in others if hasattr(owner, "__dict__")}
        self._first = self._now()
        # by name, the identity of what is too large or of another kind
        self._others = self._identities()
        # those that the objects' own code changes in sub-tasks
        self._left_alone: set[Key] = set()
        self._before: dict[Key, Any] = {}

    def _now(self) -> dict[Key, Any]:
        return {
            (path, name): value
            for path, attributes in self._owners.items()
            for name, own in attributes.items()
            if name not in _KNOWN_ELSEWHERE
            and (type(own) in PLAIN or path not in self._plain)
            and (value := small(own)) is not NotImplemented
        }

    def _identities(self) -> dict[Key, int]:
        return {
            (path, name): id(own)
            for path, attributes in self._owners.items()
            for name, own in attributes.items()
            if (path, name) not in self._first and path not in self._plain
        }

    def begin_round(self) -> None:
        """A round begins, in which what changes is the objects' own business."""
        self._before = self._now()

    def end_round(self) -> None:
        """Leave alone from now on what has changed in the round."""
        self._left_alone.update(_changed(self._before, self._now()))

    def changed(self) -> dict[Key, Any]:
        """Return what the loop has changed so far, by the owner's name and the attribute's."""
        now = self._now()
        changed = {
            key: now.get(key, NotImplemented) for key in _changed(self._first, now) if key not in self._left_alone
        }
        partly = {path for (path, _), value in changed.items() if value is NotImplemented and path not in self._plain}
        partly |= {path for path, name in changed if self._others.get((path, name), 0)}
        partly |= {path for (path, name), known in self._others.items() if id(self._owners[path].get(name)) != known}
        return {key: value for key, value in changed.items() if key[0] not in partly and value is not NotImplemented}

    def restore(self, changed: Mapping[Key, Any] | None) -> None:
        """Give attributes the values that they have elsewhere."""
        for (path, name), value in (changed or {}).items():
            if path in self._owners:
                put_back(self._owners[path], name, value)


def _changed(before: Mapping[Key, Any], now: Mapping[Key, Any]) -> list[Key]:
    """Return the keys of values that differ, or are on one side only."""
    return [key for key in {**before, **now} if key not in before or key not in now or differ(before[key], now[key])]
