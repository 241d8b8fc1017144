"""Containers, read and written by the methods of Python's own classes: a class of the user's does more in its own, or refuses.

What is put back has been through the user's methods before: it is neither counted again, nor refused.
"""

from __future__ import annotations

import weakref
from array import array
from collections import OrderedDict, deque
from typing import Any

__all__ = ["class_of", "content_of_dict", "elements_of", "fill", "length_of", "put_key", "remove_key"]

_SEQUENCES = (list, bytearray, array)
# Those that are written in C, and the two that are what Python has in place of them.
_CLASSES = (
    OrderedDict, dict, deque, *_SEQUENCES, tuple, set, frozenset, weakref.WeakKeyDictionary, weakref.WeakValueDictionary,
)  # fmt: skip


def class_of(thing: Any) -> Any:
    """Return the class of Python's own that a container's class is derived from."""
    return next(kind for kind in _CLASSES if isinstance(thing, kind))


def length_of(thing: Any) -> int:
    return int(class_of(thing).__len__(thing))


def elements_of(thing: Any) -> list[Any]:
    """Return what is in a sequence or set, or the keys of a dict, in order."""
    return list(class_of(thing).__iter__(thing))


def content_of_dict(thing: Any) -> dict[Any, Any]:
    return dict(class_of(thing).items(thing))


def put_key(thing: Any, key: Any, value: Any) -> None:
    class_of(thing).__setitem__(thing, key, value)


def remove_key(thing: Any, key: Any) -> None:
    """Remove a key, if it is there."""
    class_of(thing).pop(thing, key, None)


def fill(thing: Any, value: Any) -> None:
    """Give a container this content in place of its own."""
    kind = class_of(thing)
    if kind in _SEQUENCES:
        kind.__setitem__(thing, slice(None), value)
        return
    kind.clear(thing)
    if kind is deque:
        deque.extend(thing, value)
    elif kind is set:
        set.update(thing, value)
    else:
        for key, each in value.items():
            kind.__setitem__(thing, key, each)
