"""What the loop changes besides the tracked state: joiners are given it too, where it is small.

Attributes of tracked objects, of datasets and of the user's own objects (`dropout.p = 0.1`, `data.stage += 1`), and variables of the
user's functions and modules (`best = min(best, loss)`). They are no part of digests: what code changes in a sub-task, a cache say, may
differ from trainer to trainer without harm. What changes in the first rounds is taken for that, and left alone. So are objects of which
only a part could be given: small values go, large ones do not.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterable, Mapping
from types import FrameType
from typing import Any

from surefoot_actors.engine.state.small import PLAIN, differ, put_back, small

__all__ = ["Attributes", "Variables"]

# kept by their owners' restore
_KNOWN_ELSEWHERE = frozenset(("training",))

Key = tuple[str, str]


class Variables:
    """The local variables of a function that is under way, in a frame that waits: read and written as a debugger does."""

    def __init__(self, frame: FrameType) -> None:
        self._frame = frame

    def read(self) -> dict[str, Any]:
        return dict(self._frame.f_locals)

    def write(self, name: str, value: Any) -> None:
        """Give a variable a value. Only while the frame waits in a call."""
        variables = self._frame.f_locals
        if name in self._frame.f_code.co_varnames + self._frame.f_code.co_cellvars + self._frame.f_code.co_freevars:
            put_back(variables, name, value)
            ctypes.pythonapi.PyFrame_LocalsToFast(ctypes.py_object(self._frame), ctypes.c_int(0))


class Attributes:
    """The attributes of some objects, by the objects' names, compared with what they were when this was made.

    Of what is tracked they are numbers and texts alone: the rest of it is state in its own right.
    """

    def __init__(
        self,
        tracked: Iterable[tuple[str, object]] = (),
        others: Iterable[tuple[str, object]] = (),
        variables: Iterable[tuple[str, Variables | dict[str, Any]]] = (),
    ) -> None:
        """`variables`: of functions under way, and of modules."""
        known = {path: vars(owner) for path, owner in tracked if hasattr(owner, "__dict__")}
        seen = {path: vars(owner) for path, owner in others if hasattr(owner, "__dict__")}
        self._plain = frozenset(known)
        # of the others an object is given whole or not at all
        self._whole = frozenset(seen)
        self._owners: dict[str, Variables | dict[str, Any]] = {**known, **seen, **dict(variables)}
        self._first = self._now()
        # by name, the identity of what is too large or of another kind
        self._others = self._identities()
        # those that the objects' own code changes in sub-tasks
        self._left_alone: set[Key] = set()
        self._before: dict[Key, Any] = {}

    def _now(self) -> dict[Key, Any]:
        return {
            (path, name): value
            for path, owner in self._owners.items()
            for name, own in _read(owner).items()
            if name not in _KNOWN_ELSEWHERE
            and not name.startswith("__")
            and (type(own) in PLAIN or path not in self._plain)
            and (value := small(own)) is not NotImplemented
        }

    def _identities(self) -> dict[Key, int]:
        return {
            (path, name): id(own)
            for path in self._whole
            for name, own in _read(self._owners[path]).items()
            if (path, name) not in self._first
        }

    def begin_round(self) -> None:
        """A round begins, in which what changes is the objects' own business."""
        self._before = self._now()

    def end_round(self) -> None:
        """Leave alone from now on what has changed in the round."""
        self._left_alone.update(_changed(self._before, self._now()))

    def changed_in_round(self) -> list[str]:
        """Return the names of what has changed since the round began, for messages."""
        return sorted(
            {f"{path.partition(':')[2] or path}: {name}" for path, name in _changed(self._before, self._now())}
        )

    def changed(self) -> dict[Key, Any]:
        """Return what the loop has changed so far, by the owner's name and the attribute's."""
        now = self._now()
        changed = {
            key: now.get(key, NotImplemented) for key in _changed(self._first, now) if key not in self._left_alone
        }
        partly = {path for (path, _), value in changed.items() if value is NotImplemented and path in self._whole}
        partly |= {path for path, name in changed if self._others.get((path, name), 0)}
        partly |= {
            path for (path, name), known in self._others.items() if id(_read(self._owners[path]).get(name)) != known
        }
        return {key: value for key, value in changed.items() if key[0] not in partly and value is not NotImplemented}

    def restore(self, changed: Mapping[Key, Any] | None) -> None:
        """Give attributes the values that they have elsewhere."""
        for (path, name), value in (changed or {}).items():
            owner = self._owners.get(path)
            if isinstance(owner, Variables):
                owner.write(name, value)
            elif owner is not None:
                put_back(owner, name, value)


def _read(owner: Variables | dict[str, Any]) -> dict[str, Any]:
    return owner.read() if isinstance(owner, Variables) else dict(owner)


def _changed(before: Mapping[Key, Any], now: Mapping[Key, Any]) -> list[Key]:
    """Return the keys of values that differ, or are on one side only."""
    return [key for key in {**before, **now} if key not in before or key not in now or differ(before[key], now[key])]
