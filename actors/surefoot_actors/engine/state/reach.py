"""What the user's code can get at when its loop begins, each thing by the way to it, which is the same on every trainer.

From the variables of its functions and modules through containers, objects, classes and functions of the user's own. What belongs to
libraries is known, so that it can be told by its name, but not looked into.
"""

from __future__ import annotations

import argparse
import io
import queue
import sys
import threading
import types
import weakref
from array import array
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from multiprocessing.sharedctypes import SynchronizedBase
from typing import Any

import numpy as np
import torch
from torch import nn

from surefoot.contract import Run, Step
from surefoot_actors.engine.data.code import is_users, slots_of
from surefoot_actors.engine.state.boxes import BOXES, DATA_LIBRARIES, HELD_BY_MODULES, OF_OPTIMIZERS, fill_box, read_box
from surefoot_actors.engine.state.portable import PLAIN
from surefoot_actors.engine.state.variables import Globals, Variables

__all__ = ["DELETED", "Reach", "is_of_the_user", "of_optimizer", "parts", "put"]

# So many things are looked for, and so many in one container; one that has more is looked at as a whole.
_MOST, _MOST_IN_ONE = 20_000, 256
_CONTAINERS = (dict, list, tuple, deque, set)
# Classes of the standard library whose objects hold the user's values.
_SETTINGS = (argparse.Namespace, types.SimpleNamespace, queue.Queue, SynchronizedBase)
_NOT_WALKED = (Run, Step, torch.optim.Optimizer, torch.Tensor, np.ndarray, types.ModuleType)
_OF_CLASSES = (
    types.FunctionType, classmethod, staticmethod, property, types.MemberDescriptorType, types.GetSetDescriptorType,
)  # fmt: skip
_OF_MODULES = frozenset(vars(nn.Module()))

Slot = tuple[str, Any]
"""How a part is reached, "attribute" say, and which it is. ("all", None): all that is in a container."""


class Deleted:
    """Stands for a value that is no longer there."""


DELETED = Deleted


# Files in memory, and bytes that can be written.
_BYTES = (io.BytesIO, io.StringIO, bytearray, array)
_WALKED = (
    Variables,
    Globals,
    torch.Tensor,
    np.ndarray,
    types.MethodType,
    partial,
    threading.local,
    *_CONTAINERS,
    *_BYTES,
    *BOXES,
)


class Reach:
    """Things by name, and names by thing; `walked` are those whose parts are looked at."""

    def __init__(self, references: Iterable[tuple[str, Any]] = ()) -> None:
        """`references`: what is known by its name, and not looked into: the tracked state."""
        self.walked: dict[str, Any] = {}
        self._things: dict[str, Callable[[], Any]] = {}
        self._names: dict[int, str] = {}
        for name, thing in references:
            self._register(name, thing)

    def add(self, roots: Iterable[tuple[str, Any]]) -> None:
        """Find what there is from these on, breadth first."""
        waiting = deque(roots)
        while waiting and len(self._things) < _MOST:
            name, thing = waiting.popleft()
            if name in self._things or self.name_of(thing) is not None or _is_iterator(thing):
                continue
            self._register(name, thing)
            if not _is_walked(thing):
                continue
            self.walked[name] = thing
            found = [
                (i, slot, value)
                for i, (slot, value) in enumerate(parts(thing, inside=True))
                if type(value) not in PLAIN
            ]
            if not isinstance(thing, _CONTAINERS) or len(found) <= _MOST_IN_ONE:
                waiting.extend((f"{name}{_shown(slot, i)}", value) for i, slot, value in found)
            if (module := _globals(thing)) is not None:
                waiting.append((f"module {module.get('__name__')}", self._globals(module)))

    def _globals(self, values: dict[str, Any]) -> Globals:
        known = self.thing(f"module {values.get('__name__')}")
        return known if isinstance(known, Globals) else Globals(values)

    def _register(self, name: str, thing: Any) -> None:
        try:
            held: Callable[[], Any] = weakref.ref(thing)
        except TypeError:
            held = partial(_itself, thing)
        # what is looked at by way of these has no other owner
        self._things[name] = partial(_itself, thing) if isinstance(thing, Variables | Globals) else held
        self._names[id(thing)] = name

    def name_of(self, thing: Any) -> str | None:
        name = self._names.get(id(thing))
        return name if name is not None and self._things[name]() is thing else None

    def thing(self, name: str) -> Any:
        """Return what has this name; None where there is no such thing, or it is gone."""
        held = self._things.get(name)
        return held() if held is not None else None

    def forget(self) -> None:
        """Let go of everything: frames among it."""
        self.walked.clear()
        self._things.clear()
        self._names.clear()


def _itself(thing: Any) -> Any:
    return thing


def _is_iterator(thing: Any) -> bool:
    """Whether this is an iterator of Python's own: nothing can set one back in place, so it has no name, and is told by its content."""
    kind = type(thing)
    return kind.__module__ in ("builtins", "itertools") and hasattr(kind, "__next__")


def _is_walked(thing: Any) -> bool:
    if isinstance(thing, _WALKED):
        return True
    if isinstance(thing, types.FunctionType):
        return is_users(_file(thing.__module__))
    if isinstance(thing, type):
        return is_of_the_user(thing)
    if isinstance(thing, types.ModuleType):
        return False
    if isinstance(thing, nn.Module):
        return True
    if isinstance(thing, _NOT_WALKED):
        return False
    kind = type(thing)
    if isinstance(thing, _SETTINGS) or is_of_the_user(kind) or kind.__module__.partition(".")[0] in DATA_LIBRARIES:
        return hasattr(thing, "__dict__") or bool(slots_of(kind))  # type: ignore[arg-type]  # mypy takes `type` for unhashable
    # data sets, those of libraries too
    return (
        hasattr(thing, "__dict__")
        and callable(getattr(kind, "__getitem__", None))
        and callable(getattr(kind, "__len__", None))
    )


def is_of_the_user(kind: type) -> bool:
    """Whether a class is of the user's own code."""
    return is_users(_file(kind.__module__))


def _file(module: str) -> str:
    found = sys.modules.get(module)
    file = getattr(found, "__file__", None)
    if isinstance(file, str):
        return file
    return "/" if module == "__main__" else "<frozen"


def _globals(thing: Any) -> dict[str, Any] | None:
    """Return the global variables of the user's module that a function or an object's class is of."""
    if isinstance(thing, types.FunctionType):
        return thing.__globals__ if is_users(thing.__globals__.get("__file__", "<frozen")) else None
    if isinstance(thing, type) or hasattr(thing, "__dict__"):
        kind = thing if isinstance(thing, type) else type(thing)
        module = sys.modules.get(kind.__module__)
        if module is not None and is_users(_file(kind.__module__)):
            return vars(module)
    return None


# ---- parts: what of a thing is compared, and put back


def parts(thing: Any, *, inside: bool = False) -> Iterator[tuple[Slot, Any]]:
    """Yield a thing's parts. `inside`: what is in a container one by one, to find more things."""
    if isinstance(thing, Variables):
        yield from ((("variable", name), value) for name, value in thing.read().items())
    elif isinstance(thing, Globals):
        yield from _globals_of(thing, inside=inside)
    elif isinstance(thing, dict):
        yield from _of_dict(thing, inside=inside)
        yield from _attributes(thing)
    elif isinstance(thing, list | tuple | deque):
        yield from ((("item", i), v) for i, v in enumerate(thing)) if inside else _all_of(thing)
        yield from _attributes(thing)
    elif isinstance(thing, io.BytesIO | io.StringIO):
        yield from () if inside or thing.closed else ((("all", None), (thing.getvalue(), thing.tell())),)
    elif isinstance(thing, bytearray | array):
        yield from () if inside else ((("all", None), thing[:]),)
    elif isinstance(thing, set):
        yield from () if inside else _all_of(thing)
    elif isinstance(thing, BOXES):
        yield from () if inside else ((("all", None), read_box(thing)),)
    elif isinstance(thing, torch.Tensor | np.ndarray):
        yield from () if inside else ((("all", None), thing),)
    elif isinstance(thing, types.FunctionType):
        yield from _of_function(thing)
    elif isinstance(thing, types.MethodType):
        yield from ((("", "__self__"), thing.__self__), (("", "__func__"), thing.__func__)) if inside else ()
    elif isinstance(thing, partial):
        yield from ((("", i), v) for i, v in enumerate((thing.func, thing.args, thing.keywords))) if inside else ()
    elif isinstance(thing, threading.local):  # of the thread that looks for things, which trains
        yield from ((("", "local"), thing.__dict__),) if inside else ()
    elif isinstance(thing, type):
        own = [(k, v) for k, v in vars(thing).items() if not k.startswith("__") and not isinstance(v, _OF_CLASSES)]
        yield from ((("class", name), value) for name, value in own)
        if inside:
            functions = (f.__func__ if isinstance(f, classmethod | staticmethod) else f for f in vars(thing).values())
            yield from ((("", f.__name__), f) for f in functions if isinstance(f, types.FunctionType))
    elif isinstance(thing, nn.Module):
        yield from _of_module(thing, inside=inside)
    else:
        yield from _attributes(thing)
        if inside:
            yield ("", "class"), type(thing)


def _globals_of(thing: Globals, *, inside: bool) -> Iterator[tuple[Slot, Any]]:
    for name, value in list(thing.values.items()):
        if name.startswith("__"):
            continue
        if isinstance(value, types.ModuleType):
            if inside and is_users(getattr(value, "__file__", None) or "<frozen"):
                yield ("", name), Globals(vars(value))
        else:
            yield ("variable", name), value


def _of_dict(thing: dict[Any, Any], *, inside: bool) -> Iterator[tuple[Slot, Any]]:
    if inside or (len(thing) <= _MOST_IN_ONE and all(type(key) is str for key in thing)):
        yield from ((("key", key), value) for key, value in list(thing.items()))
        if inside:
            yield from ((("", f"key {i}"), key) for i, key in enumerate(thing) if type(key) not in PLAIN)
        else:
            yield ("order", None), list(thing)
    else:
        yield from _all_of(thing)


def _all_of(thing: Any) -> Iterator[tuple[Slot, Any]]:
    if not isinstance(thing, tuple):
        yield ("all", None), dict(thing) if isinstance(thing, dict) else list(thing)


def _attributes(thing: Any) -> Iterator[tuple[Slot, Any]]:
    yield from ((("attribute", k), v) for k, v in list(getattr(thing, "__dict__", {}).items()) if k != "training")
    for name in slots_of(type(thing)):  # type: ignore[arg-type]  # as above
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
        yield ("", "class"), type(thing)


def _shown(slot: Slot, place: int) -> str:
    how, key = slot
    if how == "key" and type(key) not in PLAIN and type(key) is not tuple:
        return f"[#{place}]"  # the words for an object may hold its address
    return f"[{key!r}]" if how in ("key", "item") else f".{key}" if how != "variable" else f": {key}"


# ---- putting back


def put(thing: Any, slot: Slot, value: Any) -> None:
    """Give a part of a thing this value."""
    how, key = slot
    if how == "all":
        _fill(thing, value)
    elif how == "order":
        items = {key: thing[key] for key in value if key in thing}
        thing.clear()
        thing.update(items)
    elif isinstance(thing, Variables):
        if value is not DELETED:
            thing.write(key, value)
    elif how == "cell":
        thing.__closure__[key].cell_contents = value
    elif how == "buffer":
        _set_key(thing._buffers, key, value)
    elif how == "key" or isinstance(thing, Globals):
        _set_key(thing.values if isinstance(thing, Globals) else thing, key, value)
    elif how == "attribute" and key in getattr(thing, "__dict__", {}):
        _set_key(thing.__dict__, key, value)
    elif value is DELETED:
        delattr(thing, key)
    elif isinstance(thing, type | types.FunctionType):
        setattr(thing, key, value)
    else:
        object.__setattr__(thing, key, value)


def _set_key(values: dict[Any, Any], key: Any, value: Any) -> None:
    if value is DELETED:
        values.pop(key, None)
    else:
        values[key] = value


def _fill(thing: Any, value: Any) -> None:
    if isinstance(thing, torch.Tensor):
        if thing.shape == value.shape and thing.dtype == value.dtype:
            thing.detach().copy_(value)
        else:
            thing.data = value
    elif isinstance(thing, np.ndarray):
        if thing.shape == value.shape and thing.flags.writeable:
            thing[...] = value
    elif isinstance(thing, list | bytearray | array):
        thing[:] = value
    elif isinstance(thing, BOXES):
        fill_box(thing, value)
    elif isinstance(thing, io.BytesIO | io.StringIO):
        thing.seek(0)
        thing.truncate()
        thing.write(value[0])
        thing.seek(value[1])
    else:
        thing.clear()
        (thing.extend if isinstance(thing, deque) else thing.update)(value)
