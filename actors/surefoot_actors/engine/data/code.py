"""What code may read besides its arguments: the global variables that a function of the user's names, the slots of a class."""

from __future__ import annotations

import dis
import functools
import types
from collections.abc import Iterator
from typing import Any

from surefoot_actors.user_code.lines import is_library

__all__ = ["globals_of", "is_users", "slots_of"]


@functools.lru_cache(maxsize=1024)
def is_users(file: str) -> bool:
    """Whether code is of the user's own: what libraries keep in globals and classes is their business."""
    return not (is_library(file) or file.startswith("<frozen"))


def globals_of(function: types.FunctionType) -> Iterator[tuple[str, Any]]:
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


@functools.lru_cache(maxsize=1024)
def slots_of(kind: type) -> tuple[str, ...]:
    """The attributes that objects of a class keep outside of `__dict__`."""
    names: list[str] = []
    for part in kind.__mro__:
        slots = part.__dict__.get("__slots__", ())
        names += [slots] if isinstance(slots, str) else list(slots)
    return tuple(n for n in names if n not in ("__dict__", "__weakref__"))
