"""Containers, read and written by the methods of Python's own classes: a class of the user's does more in its own, or refuses.

What is put back has been through the user's methods before: it is neither counted again, nor refused.
"""

from __future__ import annotations

import weakref
from array import array
from collections import OrderedDict, deque
from collections.abc import Callable
from functools import partial
from typing import Any

__all__ = ["content_of_dict", "elements_of", "fill", "length_of", "method_of", "put_key", "remove_key"]

_SEQUENCES = (list, bytearray, array)
# Those that are written in C, and the two that are what Python has in place of them.
_CLASSES = (
    OrderedDict, dict, deque, *_SEQUENCES, tuple, set, frozenset, weakref.WeakKeyDictionary, weakref.WeakValueDictionary,
)  # fmt: skip


def method_of(thing: Any, name: str) -> Callable[..., Any]:
    """Return a method as the class of Python's own has it; of an object that only says that it is a container, its own."""
    kind = next((kind for kind in _CLASSES if issubclass(type(thing), kind)), None)
    return getattr(thing, name) if kind is None else partial(getattr(kind, name), thing)


def length_of(thing: Any) -> int:
    return int(method_of(thing, "__len__")())


def elements_of(thing: Any) -> list[Any]:
    """Return what is in a sequence or set, or the keys of a dict, in order."""
    return list(method_of(thing, "__iter__")())


def content_of_dict(thing: Any) -> dict[Any, Any]:
    return dict(method_of(thing, "items")())


def put_key(thing: Any, key: Any, value: Any) -> None:
    method_of(thing, "__setitem__")(key, value)


def remove_key(thing: Any, key: Any) -> None:
    """Remove a key, if it is there."""
    method_of(thing, "pop")(key, None)


def fill(thing: Any, value: Any) -> None:
    """Give a container this content in place of its own."""
    if isinstance(thing, _SEQUENCES):
        method_of(thing, "__setitem__")(slice(None), value)
        return
    method_of(thing, "clear")()
    if isinstance(thing, deque | set):
        method_of(thing, "extend" if isinstance(thing, deque) else "update")(value)
        return
    put = method_of(thing, "__setitem__")
    for key, each in value.items():
        put(key, each)
