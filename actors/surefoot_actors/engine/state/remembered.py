"""What the user's code holds at one moment, put back later in place: what a sub-task that is computed for what it shows adds to records."""

from __future__ import annotations

import io
import types
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import torch
from torch import nn

from surefoot_actors.engine.state.containers import content_of_dict, elements_of
from surefoot_actors.engine.state.parts import DELETED, Slot, attributes_of, is_of_the_user, parts, put
from surefoot_actors.engine.state.portable import PLAIN
from surefoot_actors.engine.state.unset import has_a_place
from surefoot_actors.engine.state.variables import Globals, Variables
from surefoot_actors.user_code.frames import PROXIES

__all__ = ["Remembered", "copied", "follows_a_place", "is_told"]

Part = tuple[Any, Slot, Any]
"""A thing, which part of it, and what that is."""

Place = tuple[int, Slot]
"""The id of a thing that is kept, and which part of it."""

_CONTAINERS = (dict, list, set, deque)
# So many parts are looked at; tensors and arrays of at most so many bytes are copied.
_MOST = 100_000
_MOST_BYTES = 1 << 24
# Keys and attributes that are new can be taken away again.
_NEW = ("key", "attribute")
# All that is in a container, a tensor or an array; the order of a dict's keys, which is put back last.
_WHOLE = ("all", "order")
# Through so many objects a place is looked for, and among so many values of a container.
_DEEP, _FEW = 3, 64
# Where another object may have come to lie.
_HELD = ("variable", "attribute", "key", "cell", "class", "buffer")


class Remembered:
    """Numbers, texts, and what is in containers, tensors and arrays, of all that is in reach; other objects stay who they are."""

    def __init__(
        self,
        found: Callable[[], Iterable[Part]],
        token: Callable[[Any, Slot], Any],
        is_known: Callable[[Any], bool],
    ) -> None:
        """`found`: asked for all parts in reach; `token`: equal for equal values; `is_known`: whether a thing is among `found`."""
        self._found, self._token, self._is_known = found, token, is_known
        # by thing and part: numbers, texts and contents, each with its token; and objects
        self._values: dict[Place, tuple[Any, Any, Any]] = {}
        self._objects: dict[Place, tuple[Any, Any]] = {}
        self._things: dict[int, Any] = {}
        for thing, slot, value in self._all():
            self._things[id(thing)] = thing
            if slot[0] in _WHOLE or type(value) in PLAIN:
                self._values[id(thing), slot] = thing, copied(value), token(value, slot) if is_told(value) else None
            else:
                self._objects[id(thing), slot] = thing, value

    def put_back(self) -> None:
        """Make everything as it was."""
        now = {(id(thing), slot): (thing, value) for thing, slot, value in self._all()}
        back = [(t, p[1], DELETED) for p, (t, _) in now.items() if self._is_new(p)]
        back += [
            (t, p[1], v)
            for p, (t, v) in self._objects.items()
            if p[1][0] in _HELD and now.get(p, (t, None))[1] is not v
        ]
        back += [
            (t, p[1], v)
            for p, (t, v, token) in self._values.items()
            if is_told(v) and not (p in now and token is not None and self._token(now[p][1], p[1]) == token)
        ]
        for thing, slot, value in sorted(back, key=lambda part: part[1][0] == "order"):
            if not follows_a_place(thing):
                put(thing, slot, value)

    def _is_new(self, place: Place) -> bool:
        return (
            place[0] in self._things
            and place[1][0] in _NEW
            and place not in self._values
            and place not in self._objects
        )

    def _all(self) -> Iterator[Part]:
        """Yield the parts of all that is in reach, and of containers and objects among them that were made since."""
        waiting = deque(self._found())
        seen: set[int] = set()
        while waiting and len(seen) < _MOST:
            thing, slot, value = waiting.popleft()
            if type(value) in PROXIES:
                continue
            yield thing, slot, value
            for each in _inside(value) if slot[0] == "all" else (value,):
                if type(each) not in PROXIES and id(each) not in seen and _is_made(each) and not self._is_known(each):
                    seen.add(id(each))
                    waiting.extend((each, slot, value) for slot, value in parts(each))


def follows_a_place(thing: Any) -> bool:
    """Whether a thing may count where a file, an iterator or a connection of its own is, which stay where they are."""
    if isinstance(thing, Variables | Globals):
        values: Iterable[Any] = thing.read().values() if isinstance(thing, Variables) else thing.values.values()
        return any(map(_has_a_place, values))
    return _leads_to_a_place(thing, _DEEP)


def _leads_to_a_place(thing: Any, deep: int) -> bool:
    if isinstance(thing, types.FunctionType):
        held: Iterable[Any] = (value for _, value in parts(thing))
    elif isinstance(thing, _CONTAINERS):
        held = list(content_of_dict(thing).values() if isinstance(thing, dict) else elements_of(thing))[:_FEW]
    else:
        held = [value for _, value in attributes_of(thing)]
    held = [v for v in held if type(v) not in PROXIES]
    return any(_has_a_place(v) or (deep > 0 and _may_hold(v) and _leads_to_a_place(v, deep - 1)) for v in held)


def _has_a_place(value: Any) -> bool:
    kind = type(value)
    is_iterator = hasattr(kind, "__next__") and not kind.__module__.startswith("surefoot_actors.")
    return has_a_place(value) or (is_iterator and not isinstance(value, io.IOBase))


def _may_hold(value: Any) -> bool:
    return isinstance(value, _CONTAINERS) or (
        not isinstance(value, nn.Module) and _is_made(value) and not _is_number(value)
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, torch.Tensor | np.ndarray)


def _inside(value: Any) -> Iterable[Any]:
    return value if isinstance(value, list) else value.values() if isinstance(value, dict) else (value,)


def _is_made(value: Any) -> bool:
    if isinstance(value, torch.Tensor | np.ndarray):
        return is_told(value)
    return isinstance(value, _CONTAINERS) or (type(value) not in PLAIN and is_of_the_user(type(value)))


def is_told(value: Any) -> bool:
    """Whether a value is copied, and compared: of tensors and arrays those that are plain and not too large."""
    if isinstance(value, np.ndarray):
        return value.nbytes <= _MOST_BYTES and not value.dtype.hasobject
    if not isinstance(value, torch.Tensor):
        return True
    is_plain = value.layout is torch.strided and not (
        value.is_quantized or value.is_inference() or nn.parameter.is_lazy(value)
    )
    return is_plain and not value.requires_grad and value.nbytes <= _MOST_BYTES


def copied(value: Any) -> Any:
    """Return a value that stays as it is."""
    if not isinstance(value, torch.Tensor | np.ndarray) or not is_told(value):
        return value
    return value.detach().clone() if isinstance(value, torch.Tensor) else value.copy()
