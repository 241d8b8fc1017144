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
from contextvars import ContextVar
from functools import partial
from multiprocessing.sharedctypes import SynchronizedBase
from typing import Any

import numpy as np
import torch
from torch import nn

from surefoot.contract import Run, Step
from surefoot_actors.engine.data.code import is_users, slots_of
from surefoot_actors.engine.state.boxes import BOXES, DATA_LIBRARIES
from surefoot_actors.engine.state.contexts import InContext, TrainingContext
from surefoot_actors.engine.state.generators import GENERATORS
from surefoot_actors.engine.state.parts import MOST_IN_ONE, Slot, file_of_code, is_of_the_user, is_read, parts
from surefoot_actors.engine.state.portable import NO_ADDRESS, PLAIN
from surefoot_actors.engine.state.variables import Globals, Variables
from surefoot_actors.user_code.frames import PROXIES
from surefoot_actors.user_code.places import file_of

__all__ = ["Reach"]

# So many things are looked for.
_MOST = 20_000
_CONTAINERS = (dict, list, tuple, deque, set)
# Classes of the standard library whose objects hold the user's values.
_SETTINGS = (argparse.Namespace, types.SimpleNamespace, queue.Queue, SynchronizedBase)
_NOT_WALKED = (Step, torch.optim.Optimizer, torch.Tensor, np.ndarray, types.ModuleType)
# Torch's own that say which samples come next, or are made of numbers that code changes.
_OF_TORCH = ("torch.utils.data.", "torch.quasirandom", "torch.distributions.")
# Files in memory, and bytes that can be written.
_BYTES = (io.BytesIO, io.StringIO, bytearray, array)
_WALKED = (
    Variables,
    Globals,
    Run,
    torch.Tensor,
    np.ndarray,
    types.MethodType,
    partial,
    threading.local,
    weakref.WeakKeyDictionary,
    weakref.WeakValueDictionary,
    InContext,
    *GENERATORS,
    *_CONTAINERS,
    *_BYTES,
    *BOXES,
)


class Reach:
    """Things by name, and names by thing; `walked` are those whose parts are looked at."""

    def __init__(self, references: Iterable[tuple[str, Any]] = ()) -> None:
        """`references`: what is known by its name, and not looked into: the tracked state."""
        self.walked: dict[str, Any] = {}
        self.context = TrainingContext()
        self._things: dict[str, Callable[[], Any]] = {}
        self._names: dict[int, str] = {}
        for name, thing in references:
            self._register(name, thing)

    def add(self, roots: Iterable[tuple[str, Any]]) -> None:
        """Find what there is from these on, breadth first."""
        waiting = deque(roots)
        while waiting and len(self._things) < _MOST:
            name, thing = waiting.popleft()
            if type(thing) in PROXIES or name in self._things or self.name_of(thing) is not None or _is_iterator(thing):
                continue
            self._register(name, thing)
            if isinstance(thing, ContextVar):
                waiting.append((f"{name}: ", InContext(thing, self.context)))
            if _is_users_module(thing):
                waiting.append((f"module {thing.__name__}", self._globals(vars(thing))))
            if not _is_walked(thing):
                continue
            self.walked[name] = thing
            if isinstance(thing, Variables):
                waiting.extend((f"{name}: the variable {key}", cell) for key, cell in thing.cells().items())
            found = [
                (i, slot, value)
                for i, (slot, value) in enumerate(parts(thing, inside=True))
                if type(value) not in PLAIN
            ]
            # what is in a larger one is looked at as a whole; a tuple stays who it is, and only what is in it changes
            if not isinstance(thing, _CONTAINERS) or isinstance(thing, tuple) or len(found) <= MOST_IN_ONE:
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
        self._things[name] = partial(_itself, thing) if isinstance(thing, Variables | Globals | InContext) else held
        self._names[id(thing)] = name

    def name_of(self, thing: Any) -> str | None:
        name = self._names.get(id(thing))
        return name if name is not None and self._things[name]() is thing else None

    def name_at(self, address: int) -> str | None:
        """Return the name of what has this id()."""
        name = self._names.get(address)
        return name if name is not None and id(self._things[name]()) == address else None

    def named(self) -> Iterator[tuple[str, Any]]:
        """Yield all that there is, by name."""
        return ((name, held()) for name, held in self._things.items())

    def thing(self, name: str) -> Any:
        """Return what has this name; None where there is no such thing, or it is gone."""
        held = self._things.get(name)
        return held() if held is not None else None

    def bases(self) -> Callable[[torch.Tensor], torch.Tensor | None]:
        """Return what tells which tensor with a name lies in the same memory as a tensor, as things are now."""
        found: dict[int, torch.Tensor] = {}

        def base_of(tensor: torch.Tensor) -> torch.Tensor | None:
            if not _has_memory(tensor):
                return None
            if not found:
                named = [
                    t for held in self._things.values() if isinstance(t := held(), torch.Tensor) and _has_memory(t)
                ]
                found.update((t.untyped_storage().data_ptr(), t) for t in reversed(named))
            base = found.get(tensor.untyped_storage().data_ptr())
            return base if base is not None and base.dtype == tensor.dtype and base is not tensor else None

        return base_of

    def forget(self) -> None:
        """Let go of everything: frames among it."""
        self.walked.clear()
        self._things.clear()
        self._names.clear()


def _itself(thing: Any) -> Any:
    return thing


def _has_memory(tensor: torch.Tensor) -> bool:
    is_plain = tensor.layout is torch.strided and not (nn.parameter.is_lazy(tensor) or tensor.is_meta)
    return is_plain and not tensor.is_quantized and not tensor.is_nested and tensor.numel() > 0


def _is_iterator(thing: Any) -> bool:
    """Whether this is an iterator of Python's own: nothing can set one back in place, so it has no name, and is told by its content."""
    kind = type(thing)
    return kind.__module__ in ("builtins", "itertools") and hasattr(kind, "__next__")


def _is_users_module(thing: Any) -> bool:
    return isinstance(thing, types.ModuleType) and is_users(file_of(thing) or "<frozen")


def _is_walked(thing: Any) -> bool:
    if isinstance(thing, _WALKED):
        return True
    if isinstance(thing, types.FunctionType):
        # where it was written: a wrapper takes over the module of what it wraps
        return is_users(file_of_code(thing.__globals__.get("__name__", "")))
    if isinstance(thing, type):
        return is_of_the_user(thing)
    if isinstance(thing, types.ModuleType):
        return False
    if isinstance(thing, nn.Module):
        return True
    if isinstance(thing, _NOT_WALKED):
        return False
    if is_read(thing):
        return True
    kind = type(thing)
    if isinstance(thing, _SETTINGS) or is_of_the_user(kind) or _is_of_data(kind.__module__):
        return hasattr(thing, "__dict__") or bool(slots_of(kind))  # type: ignore[arg-type]  # mypy takes `type` for unhashable
    # data sets, those of libraries too
    return (
        hasattr(thing, "__dict__")
        and callable(getattr(kind, "__getitem__", None))
        and callable(getattr(kind, "__len__", None))
    )


def _is_of_data(module: str) -> bool:
    return module.partition(".")[0] in DATA_LIBRARIES or module.startswith(_OF_TORCH)


def _globals(thing: Any) -> dict[str, Any] | None:
    """Return the global variables of the user's module that a function or an object's class is of."""
    if isinstance(thing, types.FunctionType):
        return thing.__globals__ if is_users(thing.__globals__.get("__file__", "<frozen")) else None
    if isinstance(thing, type) or hasattr(thing, "__dict__"):
        kind = thing if isinstance(thing, type) else type(thing)
        module = sys.modules.get(kind.__module__)
        if module is not None and is_users(file_of_code(kind.__module__)):
            return vars(module)
    return None


def _shown(slot: Slot, place: int) -> str:
    how, key = slot
    is_address = type(key) is int and key > NO_ADDRESS
    if how == "key" and (is_address or (type(key) not in PLAIN and type(key) is not tuple)):
        return f"[#{place}]"  # the words for an object may hold its address
    return f"[{key!r}]" if how in ("key", "item") else f".{key}" if how != "variable" else f": {key}"
