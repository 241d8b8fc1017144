"""Finds out whether the loop has changed a dataset since the data workers got their copy of it, and what.

A survey walks the dataset's attributes, containers, the closures of functions and the globals they use, breadth first. Two surveys are
equal where everything that data workers could read is. What differs in plain values alone (an epoch, a stage) is told to the workers as
`Change`s; for all else they are forked anew. A survey has an end: what is beyond it is looked at seldom, see `following`.
"""

from __future__ import annotations

import ctypes
import dis
import enum
import functools
import itertools
import random
import sys
import sysconfig
import types
from array import array
from collections import deque
from collections.abc import Iterator
from pathlib import PurePath
from typing import Any, NamedTuple

import numpy as np
import torch
import xxhash

from surefoot_actors.engine.caller import is_ours
from surefoot_actors.engine.data.memory import is_plain_tensor

__all__ = ["Change", "Found", "Survey", "apply", "compare", "survey"]

_PLAIN = frozenset({int, float, complex, bool, str, bytes, type(None), torch.dtype, torch.device, range, slice})
_NOT_THE_USERS = tuple({sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")})
_GENERATORS = (random.Random, np.random.Generator, np.random.RandomState)

# Of the standard library: what changes by itself, or is made to be shared by processes.
_NOT_WALKED = (
    "logging",
    "threading",
    "_thread",
    "weakref",
    "asyncio",
    "concurrent",
    "multiprocessing.managers",
    "multiprocessing.queues",
    "multiprocessing.pool",
)

# So many values of a list without other objects count as one thing.
_BULK = 16


class Found(NamedTuple):
    """One thing that a survey has met."""

    # place of the thing that it is part of, -1 for a root; which part of it, and how it is reached
    parent: int
    how: str
    key: Any
    # what is compared
    token: Any


class Survey(NamedTuple):
    found: list[Found]
    # what was found, by its place, but for plain values; kept alive, since tokens hold ids
    objects: dict[int, Any]
    # whether something was left out, or is known by its identity alone though it may be changed in place
    partial: bool

    def path(self, place: int, roots: tuple[str, ...]) -> str:
        """Return how the thing at a place is reached, as Python would write it, more or less."""
        way = _way(self.found, place)
        return str(roots[way[0][1]]) + "".join(_STEPS.get(how, ".{}").format(key) for how, key in way[1:])


class Change(NamedTuple):
    """Tells a worker to put a plain value somewhere: the way from the roots, and the value."""

    way: tuple[tuple[str, Any], ...]
    value: Any


def survey(roots: tuple[Any, ...], *, limit: int, most_bytes: int) -> Survey:
    """Walk what the roots hold: at most `limit` things, reading tensors and arrays of at most `most_bytes` in all."""
    return _Walk(limit, most_bytes).walk(roots)


def compare(old: Survey, new: Survey) -> list[Change] | None:
    """Return what plain values differ, in the order found: none where nothing does. None: something else differs."""
    if len(old.found) != len(new.found):
        return None
    changes = []
    for place, (one, other) in enumerate(zip(old.found, new.found, strict=True)):
        if one is other or one == other:
            continue
        if one[:2] != other[:2] or one.key != other.key or other.token[0] != "plain" or one.token[0] != "plain":
            return None
        if other.how not in _PUT:
            return None
        way = _way(new.found, place)
        if any(how not in _GET for how, _ in way[1:]):
            return None
        changes.append(Change(way, other.token[3]))
    return changes


def apply(change: Change, roots: tuple[Any, ...]) -> None:
    """Put a changed value in its place, in the worker."""
    (_, root), *steps, (how, key) = change.way
    thing = roots[root]
    for step in steps:
        thing = _GET[step[0]](thing, step[1])
    _PUT[how](thing, key, change.value)


def _way(found: list[Found], place: int) -> tuple[tuple[str, Any], ...]:
    way = []
    while place >= 0:
        one = found[place]
        way.append((one.how, one.key))
        place = one.parent
    return tuple(reversed(way))


def _put_attribute(thing: Any, key: Any, value: Any) -> None:
    thing.__dict__[key] = value


def _put_item(thing: Any, key: Any, value: Any) -> None:
    thing[key] = value


def _put_cell(thing: Any, key: Any, value: Any) -> None:
    thing.__closure__[key].cell_contents = value


def _put_global(thing: Any, key: Any, value: Any) -> None:
    thing.__globals__[key] = value


_PUT = {"attribute": _put_attribute, "item": _put_item, "cell": _put_cell, "global": _put_global}
_GET = {
    "attribute": lambda thing, key: thing.__dict__[key],
    "slot": getattr,
    "item": lambda thing, key: thing[key],
    "element": lambda thing, key: thing[key],
    "cell": lambda thing, key: thing.__closure__[key].cell_contents,
    "default": lambda thing, key: thing.__defaults__[key],
    "global": lambda thing, key: thing.__globals__[key],
    "member": getattr,
    "class": lambda thing, _: type(thing),
    "of class": lambda thing, key: thing.__dict__[key],
}


_STEPS = {"item": "[{!r}]", "element": "[{!r}]", "part": "[{!r}]", "cell": " (variable {} of its closure)"}


class _Walk:
    def __init__(self, limit: int, most_bytes: int) -> None:
        self._limit, self._bytes = limit, most_bytes
        self._found: list[Found] = []
        self._objects: dict[int, Any] = {}
        self._partial = False
        self._seen: dict[int, int] = {}
        self._queue: deque[tuple[int, str, Any, Any]] = deque()

    def walk(self, roots: tuple[Any, ...]) -> Survey:
        self._queue.extend((-1, "root", i, root) for i, root in enumerate(roots))
        while self._queue:
            parent, how, key, value = self._queue.popleft()
            if type(value) in _PLAIN:
                token = _plain(value)
            elif (seen := self._seen.get(id(value))) is not None:
                token = ("again", seen)
            elif self._limit <= 0:
                self._partial = True
                break
            else:
                place = self._seen[id(value)] = len(self._found)
                self._objects[place] = value
                token = self._token(value, place)
            self._limit -= 1
            self._found.append(Found(parent, how, key, token))
        return Survey(self._found, self._objects, self._partial)

    def _token(self, value: Any, place: int) -> tuple[Any, ...]:
        kind = type(value)
        if isinstance(value, torch.Tensor):
            return self._tensor(value)
        if isinstance(value, np.ndarray):
            return self._array(value, place)
        if isinstance(value, PurePath):
            return ("path", kind, str(value))
        if isinstance(value, enum.Enum):
            return ("enum", id(value))
        if isinstance(value, list | tuple | deque):
            return self._sequence(value, place)
        if isinstance(value, dict):
            return self._mapping(value, place)
        if isinstance(value, set | frozenset):
            return self._set(value, place)
        if isinstance(value, types.FunctionType):
            return self._function(value, place)
        if isinstance(value, types.MethodType):
            self._parts(place, "member", [("__self__", value.__self__), ("__func__", value.__func__)], 2)
            return ("method",)
        if isinstance(value, functools.partial):
            members = ("func", "args", "keywords")
            self._parts(place, "member", [(name, getattr(value, name)) for name in members], 3)
            return ("partial", kind)
        if isinstance(value, type):
            return self._class(value, place)
        return self._other(value, place)

    def _parts(self, place: int, how: str, parts: Any, total: int) -> None:
        room = max(self._limit - len(self._queue), 0)  # no more than will be walked
        self._partial |= total > room
        self._queue.extend((place, how, key, part) for key, part in itertools.islice(parts, room))

    # ---- kinds of things

    def _tensor(self, tensor: torch.Tensor) -> tuple[Any, ...]:
        about = (tensor.dtype, tuple(tensor.shape), tensor.requires_grad, type(tensor))
        version = -1 if tensor.is_inference() else tensor._version
        if not is_plain_tensor(tensor) or not self._reads(tensor.nbytes):
            # writes by way of numpy leave the version as it is
            self._partial = True
            return ("tensor", about, id(tensor), version)
        flat = tensor.detach().resolve_conj().resolve_neg().contiguous().as_strided((tensor.numel(),), (1,))
        return ("tensor", about, tensor.stride(), xxhash.xxh3_128_digest(flat.view(torch.uint8).numpy().data))

    def _array(self, value: np.ndarray[Any, Any], place: int) -> tuple[Any, ...]:
        about = (type(value), value.dtype, value.shape, value.flags.writeable)
        if value.dtype.hasobject:
            self._parts(place, "flat", [(None, list(value.flat))], 1)
            return ("array", about)
        if not self._reads(value.nbytes):
            self._partial |= value.flags.writeable
            return ("array", about, id(value))
        return ("array", about, xxhash.xxh3_128_digest(np.ascontiguousarray(value).reshape(-1).view(np.uint8).data))

    def _reads(self, num_bytes: int) -> bool:
        if num_bytes > self._bytes:
            return False
        self._bytes -= num_bytes
        return True

    def _sequence(self, value: Any, place: int) -> tuple[Any, ...]:
        kind = type(value)
        kinds = set(map(type, itertools.islice(value, self._limit * _BULK)))
        if len(value) > _BULK and kinds <= _PLAIN and len(value) <= self._limit * _BULK:
            self._limit -= len(value) // _BULK
            return ("values", kind, len(value), frozenset(kinds), tuple(value))
        self._parts(place, "item" if kind is list else "element", enumerate(value), len(value))
        if kind not in (list, tuple, deque):
            self._attributes(value, place)
        return ("sequence", kind, len(value))

    def _mapping(self, value: dict[Any, Any], place: int) -> tuple[Any, ...]:
        # a Change names its place by the key
        plain = all(type(key) in _PLAIN for key in itertools.islice(value, self._limit + 1))
        self._parts(place, "item" if plain else "part", value.items(), len(value))
        if type(value) is not dict:
            self._attributes(value, place)
        return ("mapping", type(value), len(value), None if plain else tuple(map(id, value)))

    def _set(self, value: Any, place: int) -> tuple[Any, ...]:
        if len(value) > self._limit:
            self._partial = True
            return ("set", type(value), len(value))
        self._limit -= len(value)
        return ("set", type(value), frozenset(value))

    def _function(self, value: types.FunctionType, place: int) -> tuple[Any, ...]:
        for i, cell in enumerate(value.__closure__ or ()):
            try:
                self._parts(place, "cell", [(i, cell.cell_contents)], 1)
            except ValueError:  # not assigned yet
                pass
        defaults = value.__defaults__ or ()
        self._parts(place, "default", enumerate(defaults), len(defaults))
        if value.__kwdefaults__:
            self._parts(place, "member", [("__kwdefaults__", value.__kwdefaults__)], 1)
        if value.__dict__:
            self._attributes(value, place)
        if _is_users(value.__code__.co_filename):
            used = list(_globals(value))
            self._parts(place, "global", used, len(used))
        return ("function", value.__code__)

    def _class(self, value: type, place: int) -> tuple[Any, ...]:
        file = getattr(sys.modules.get(value.__module__), "__file__", None)
        if value.__module__ == "builtins" or not _is_users(file or ""):
            return ("class", id(value))
        parts = [
            (k, v) for k, v in value.__dict__.items() if not (k.startswith("__") and k.endswith("__")) and _holds(v)
        ]
        parts += [(k, v) for k, v in value.__dict__.items() if k in _CALLED]
        self._parts(place, "of class", parts, len(parts))
        bases = [(i, base) for i, base in enumerate(value.__bases__) if base is not object]
        self._parts(place, "base", bases, len(bases))
        return ("class", id(value))

    def _other(self, value: Any, place: int) -> tuple[Any, ...]:
        if isinstance(value, _GENERATORS):
            state = value.getstate() if isinstance(value, random.Random) else _numpy_state(value)
            return ("generator", type(value), repr(state))
        if isinstance(value, torch.Generator):
            return ("generator", torch.Generator, value.get_state().numpy().tobytes())
        if isinstance(value, bytearray | array):
            return ("bytes", type(value), bytes(value)) if self._reads(len(value) * 8) else self._opaque(value)
        if isinstance(value, ctypes._SimpleCData | ctypes.Array | ctypes.Structure):
            return ("bytes", type(value), bytes(value))
        if isinstance(value, types.ModuleType) or type(value).__module__.startswith(_NOT_WALKED):
            return ("opaque", type(value), id(value))
        known = self._attributes(value, place)
        if known >= 0:
            self._parts(place, "class", [(None, type(value))], 1)
        return ("object", type(value), known) if known >= 0 else ("opaque", type(value), id(value))

    def _opaque(self, value: Any) -> tuple[Any, ...]:
        self._partial = True
        return ("opaque", type(value), id(value))

    def _attributes(self, value: Any, place: int) -> int:
        """Walk an object's attributes; return how many there are, -1 for an object without any place for them."""
        known = -1
        attributes = getattr(value, "__dict__", None)
        if type(attributes) is dict:
            self._parts(place, "attribute", attributes.items(), len(attributes))
            known = len(attributes)
        for kind in type(value).__mro__:
            slots = kind.__dict__.get("__slots__", ())
            names = [slots] if isinstance(slots, str) else list(slots)
            parts = [
                (n, getattr(value, n)) for n in names if n not in ("__dict__", "__weakref__") and hasattr(value, n)
            ]
            self._parts(place, "slot", parts, len(parts))
            known = max(known, 0) + len(parts) if names else known
        return known


_CALLED = ("__getitem__", "__getitems__", "__len__", "__call__")


def _plain(value: Any) -> tuple[Any, ...]:
    kind = type(value)
    if kind is float:  # by bits: NaN equals itself, -0.0 does not equal 0.0
        return ("plain", kind, value.hex(), value)
    return ("plain", kind, repr(value) if kind is complex else value, value)


def _numpy_state(value: Any) -> Any:
    if isinstance(value, np.random.RandomState):
        kind, keys, *rest = value.get_state(legacy=True)
        return (kind, np.asarray(keys).tobytes(), *rest)
    return value.bit_generator.state


@functools.lru_cache(maxsize=1024)
def _is_users(file: str) -> bool:
    """Whether code is of the user's own: what libraries keep in globals and classes is their business."""
    return not (file.startswith(_NOT_THE_USERS) or is_ours(file) or file.startswith("<frozen"))


def _holds(value: Any) -> bool:
    """Whether an attribute of a class may hold something that changes: values and functions do, descriptors do not."""
    return isinstance(value, types.FunctionType) or not (hasattr(type(value), "__get__") or isinstance(value, type))


def _globals(function: types.FunctionType) -> Iterator[tuple[str, Any]]:
    """The global variables that a function names, but for modules."""
    for name in _names(function.__code__):
        if name in function.__globals__:
            value = function.__globals__[name]
            if not isinstance(value, types.ModuleType | types.BuiltinFunctionType):
                yield name, value


@functools.lru_cache(maxsize=4096)
def _names(code: types.CodeType) -> tuple[str, ...]:
    """The names of global variables in a function's code, and in the functions inside it."""
    names = {i.argval for i in dis.get_instructions(code) if i.opname in ("LOAD_GLOBAL", "LOAD_NAME")}
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            names.update(_names(constant))
    return tuple(sorted(names))
