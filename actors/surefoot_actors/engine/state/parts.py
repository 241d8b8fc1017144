"""What a thing's parts are: compared, to see what the loop changes, and put back on a trainer that joins."""

from __future__ import annotations

import io
import queue
import sys
import threading
import types
import weakref
from array import array
from collections import deque
from collections.abc import Iterator
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch
from torch import nn

from surefoot.contract import Run
from surefoot_actors.engine.data.code import is_users, slots_of
from surefoot_actors.engine.state.boxes import BOXES, HELD_BY_MODULES, OF_OPTIMIZERS, fill_box, read_box
from surefoot_actors.engine.state.containers import (
    content_of_dict,
    elements_of,
    fill,
    length_of,
    method_of,
    put_key,
    remove_key,
)
from surefoot_actors.engine.state.contexts import InContext
from surefoot_actors.engine.state.generators import GENERATORS, set_state, state_of
from surefoot_actors.engine.state.portable import PLAIN
from surefoot_actors.engine.state.queues import OF_QUEUES, fill_queue
from surefoot_actors.engine.state.sets import fill_set, read_set
from surefoot_actors.engine.state.variables import Globals, Variables
from surefoot_actors.user_code.places import file_of

__all__ = [
    "DELETED",
    "MOST_IN_ONE",
    "Slot",
    "attributes_of",
    "file_of_code",
    "is_of_the_user",
    "is_read",
    "of_optimizer",
    "parts",
    "put",
]

# A container that has more things is looked at as a whole.
MOST_IN_ONE = 256

_OF_CLASSES = (
    classmethod, staticmethod, property, types.MemberDescriptorType, types.GetSetDescriptorType,
)  # fmt: skip
_OF_MODULES = frozenset(vars(nn.Module())) - {"training"}
_WEAK = (weakref.WeakKeyDictionary, weakref.WeakValueDictionary)

Slot = tuple[str, Any]
"""How a part is reached, "attribute" say, and which it is. ("all", None): all that is in a container."""


class Deleted:
    """Stands for a value that is no longer there."""


DELETED = Deleted


def is_of_the_user(kind: type) -> bool:
    """Whether a class is of the user's own code."""
    return is_users(file_of_code(kind.__module__))


def file_of_code(module: str) -> str:
    """Return the file of a module; one that stands for code of Python's own where it has none."""
    found = sys.modules.get(module)
    if found is not None and (file := file_of(found)) is not None:
        return file
    return "/" if module == "__main__" else "<frozen"


# ---- apart


def parts(thing: Any, *, inside: bool = False) -> Iterator[tuple[Slot, Any]]:
    """Yield a thing's parts. `inside`: what is in a container one by one, to find more things."""
    if isinstance(thing, types.FunctionType):  # first, as most things are
        yield from _of_function(thing)
    elif isinstance(thing, Variables | InContext):
        yield from ((("variable", name), value) for name, value in thing.read().items())
    elif isinstance(thing, Globals):
        yield from _globals_of(thing, inside=inside)
    elif isinstance(thing, dict):
        yield from _of_dict(thing, inside=inside)
        yield from attributes_of(thing)
    elif isinstance(thing, list | tuple | deque):
        yield from ((("item", i), v) for i, v in enumerate(elements_of(thing))) if inside else _all_of(thing)
        yield from attributes_of(thing)
    elif isinstance(thing, torch.Tensor | np.ndarray):
        yield from () if inside else ((("all", None), thing),)
        yield from attributes_of(thing)
    elif isinstance(thing, type):
        yield from _of_class(thing, inside=inside)
    elif isinstance(thing, queue.Queue):
        yield from (
            ((("item", i), v) for i, v in enumerate(list(thing.queue)))
            if inside
            else ((("all", None), list(thing.queue)),)
        )
        yield from (part for part in attributes_of(thing) if part[0][1] not in OF_QUEUES)
    elif isinstance(thing, nn.Module):
        yield from _of_module(thing, inside=inside)
    elif isinstance(thing, Run):
        yield from _of_run(thing)
    elif (held := _held(thing)) is not None:
        yield from held if inside else ()
    elif (whole := _whole(thing)) is not None:
        yield from () if inside else ((("all", None), whole),)
    elif isinstance(thing, _WEAK):
        yield from (
            ((("", i), each) for i, pair in enumerate(thing.items()) for each in pair) if inside else _all_of(thing)
        )
    else:
        yield from attributes_of(thing)
        if inside:
            yield ("", "class"), type(thing)
        elif is_of_the_user(type(thing)):
            yield ("kind", None), type(thing)


def _held(thing: Any) -> tuple[tuple[Slot, Any], ...] | None:
    """Return what is only a way to other things; None for everything else."""
    if isinstance(thing, types.MethodType):
        return (("", "__self__"), thing.__self__), (("", "__func__"), thing.__func__)
    if isinstance(thing, partial):
        return tuple((("", i), v) for i, v in enumerate((thing.func, thing.args, thing.keywords)))
    if isinstance(thing, threading.local):  # of the thread that looks for things, which trains
        return ((("", "local"), thing.__dict__),)
    return None


def _whole(thing: Any) -> Any:
    """Return the content of what has no parts but its content; None for everything else."""
    if isinstance(thing, io.BytesIO | io.StringIO):
        return ("", 0) if thing.closed else (thing.getvalue(), thing.tell())
    if isinstance(thing, bytearray | array):
        return method_of(thing, "__getitem__")(slice(None))
    if isinstance(thing, set):
        return read_set(thing)
    if isinstance(thing, BOXES):
        return read_box(thing)
    if is_read(thing):
        return _place_in(thing)
    return state_of(thing) if isinstance(thing, GENERATORS) else None


def is_read(thing: Any) -> bool:
    """Whether it is a file that is open to be read."""
    is_file = isinstance(thing, io.TextIOWrapper | io.BufferedReader) and isinstance(getattr(thing, "name", None), str)
    return is_file and not thing.closed and thing.readable() and not thing.writable() and thing.seekable()


def _place_in(file: Any) -> int | None:
    try:
        return int(file.tell())
    except OSError:  # it is gone through line by line, and cannot be asked
        return None


def _globals_of(thing: Globals, *, inside: bool) -> Iterator[tuple[Slot, Any]]:
    for name, value in list(thing.values.items()):
        if name.startswith("__"):
            continue
        if not isinstance(value, types.ModuleType) or (inside and is_users(file_of(value) or "<frozen")):
            yield ("variable", name), value


def _of_dict(thing: dict[Any, Any], *, inside: bool) -> Iterator[tuple[Slot, Any]]:
    if inside or (length_of(thing) <= MOST_IN_ONE and all(map(_is_plain, elements_of(thing)))):
        yield from ((("key", key), value) for key, value in content_of_dict(thing).items())
        if inside:
            yield from ((("", f"key {i}"), key) for i, key in enumerate(elements_of(thing)) if type(key) not in PLAIN)
        else:
            yield ("order", None), elements_of(thing)
    else:
        yield from _all_of(thing)


def _is_plain(key: Any) -> bool:
    """Whether a key is found again by its value."""
    return (type(key) in PLAIN and key == key) or (type(key) is tuple and all(map(_is_plain, key)))


def _all_of(thing: Any) -> Iterator[tuple[Slot, Any]]:
    if not isinstance(thing, tuple):
        yield ("all", None), content_of_dict(thing) if isinstance(thing, (dict, *_WEAK)) else elements_of(thing)


def attributes_of(thing: Any) -> Iterator[tuple[Slot, Any]]:
    yield from ((("attribute", k), v) for k, v in list(getattr(thing, "__dict__", {}).items()))
    for name in slots_of(type(thing)):  # type: ignore[arg-type]  # mypy takes `type` for unhashable
        if hasattr(thing, name):
            yield ("attribute", name), getattr(thing, name)


def _of_function(thing: types.FunctionType) -> Iterator[tuple[Slot, Any]]:
    for i, cell in enumerate(thing.__closure__ or ()):
        try:
            yield ("cell", i), cell.cell_contents
        except ValueError:  # it has no value yet
            continue
    yield ("default", "__defaults__"), thing.__defaults__
    yield ("default", "__kwdefaults__"), thing.__kwdefaults__
    yield from ((("attribute", k), v) for k, v in vars(thing).items() if k != "__wrapped__")


def _of_class(thing: type, *, inside: bool) -> Iterator[tuple[Slot, Any]]:
    own = [(k, v) for k, v in vars(thing).items() if not k.startswith("__") and not isinstance(v, _OF_CLASSES)]
    yield from ((("class", name), value) for name, value in own)
    if inside:
        for name, held in vars(thing).items():
            functions = enumerate(_functions_of(held))
            yield from ((("", f"{name}{i or ''}"), f) for i, f in functions if isinstance(f, types.FunctionType))


def _functions_of(held: Any) -> tuple[Any, ...]:
    """Return the functions in what a class has by a name."""
    if isinstance(held, classmethod | staticmethod):
        return (held.__func__,)
    if isinstance(held, property):
        return held.fget, held.fset
    return (held.func,) if isinstance(held, cached_property) else (held,)


def of_optimizer(thing: torch.optim.Optimizer) -> Iterator[tuple[Slot, Any]]:
    """Attributes of an optimizer besides its state; where its class is not the user's own, numbers and texts alone."""
    users = is_of_the_user(type(thing))
    for name, value in list(vars(thing).items()):
        if type(value) in PLAIN or (
            users and name not in OF_OPTIMIZERS and not isinstance(value, torch.optim.Optimizer)
        ):
            yield ("attribute", name), value


def _of_module(thing: nn.Module, *, inside: bool) -> Iterator[tuple[Slot, Any]]:
    """Attributes of modules of the user's own; for torch's, values and functions alone. Inside: tensors too."""
    users = is_of_the_user(type(thing))
    for name, value in list(vars(thing).items()):
        if name not in _OF_MODULES and (users or type(value) in PLAIN or isinstance(value, HELD_BY_MODULES)):
            yield ("attribute", name), value
    if not inside:
        yield from ((("buffer", name), value) for name, value in thing._buffers.items())
    if inside:
        yield from ((("tensor", n), t) for n, t in (*thing.named_parameters(), *thing.named_buffers()))
        yield from ((("", name), part) for name, part in thing.named_children())
        yield ("", "class"), type(thing)


def _of_run(thing: Run) -> Iterator[tuple[Slot, Any]]:
    """The config, and what the user's code hangs on the run."""
    own: frozenset[str] = getattr(thing, "own_attributes", frozenset())
    for name, value in list(vars(thing).items()):
        if name == "config" or not (name in own or name.startswith("_")):
            yield ("attribute", name), value


# ---- together


def put(thing: Any, slot: Slot, value: Any) -> None:
    """Give a part of a thing this value."""
    how, key = slot
    if how == "all":
        _fill(thing, value)
    elif how == "order":
        items = content_of_dict(thing)
        fill(thing, {key: items[key] for key in value if key in items})
    elif isinstance(thing, Variables | InContext):
        if value is not DELETED:
            thing.write(key, value)
    elif how == "kind":
        thing.__class__ = value
    elif how == "cell":
        thing.__closure__[key].cell_contents = value
    elif how == "buffer":
        _set_key(thing._buffers, key, value)
    elif how == "key" or isinstance(thing, Globals):
        _set_key(thing.values if isinstance(thing, Globals) else thing, key, value)
    elif how == "attribute" and key in getattr(thing, "__dict__", {}):
        _set_key(thing.__dict__, key, value)
    elif isinstance(thing, type | types.FunctionType):
        delattr(thing, key) if value is DELETED else setattr(thing, key, value)
    elif value is DELETED:
        object.__delattr__(thing, key)
    else:
        object.__setattr__(thing, key, value)


def _set_key(values: dict[Any, Any], key: Any, value: Any) -> None:
    if value is DELETED:
        remove_key(values, key)
    else:
        put_key(values, key, value)


def _fill(thing: Any, value: Any) -> None:
    if isinstance(thing, torch.Tensor):
        _fill_tensor(thing, value)
    elif isinstance(thing, np.ndarray):
        if thing.shape == value.shape and thing.flags.writeable:
            thing[...] = value
    elif isinstance(thing, BOXES):
        fill_box(thing, value)
    elif isinstance(thing, GENERATORS):
        set_state(thing, value)
    elif isinstance(thing, set):
        fill_set(thing, value)
    elif isinstance(thing, queue.Queue):
        fill_queue(thing, value)
    elif isinstance(thing, io.BytesIO | io.StringIO):
        _fill_file(thing, value)
    elif isinstance(thing, io.IOBase):
        thing.seek(value)
    else:
        fill(thing, value)


def _fill_tensor(thing: torch.Tensor, value: torch.Tensor) -> None:
    if thing.shape == value.shape and thing.dtype == value.dtype:
        thing.detach().copy_(value)
    else:
        thing.data = value


def _fill_file(thing: Any, value: tuple[Any, int]) -> None:
    thing.seek(0)
    thing.truncate()
    thing.write(value[0])
    thing.seek(value[1])
