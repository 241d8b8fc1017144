"""What the user's code has in sight: the variables of its frames, from the innermost to the train function."""

from __future__ import annotations

import sys
import weakref
from collections.abc import Iterator
from types import FrameType, FunctionType, ModuleType
from typing import Any

from surefoot_actors.user_code.lines import is_ours

__all__ = ["PROXIES", "has_method", "name_of", "user_frames", "variables", "vars_of"]

# Stand for another object, which may be gone: then even what they are cannot be asked.
PROXIES = (weakref.ProxyType, weakref.CallableProxyType)

# The engine's function that calls the train function: what is further out is not the training's.
_OUTERMOST = "run_training"


def user_frames() -> Iterator[FrameType]:
    """Yield the frames of the user's code that this is called from, innermost first."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if not is_ours(frame.f_code.co_filename):
            yield frame
        elif frame.f_code.co_name == _OUTERMOST:
            return
        frame = frame.f_back


def variables() -> Iterator[tuple[str, Any]]:
    """Yield (name, value) of the user's locals and then globals, and ("self.x", value) of what a method's object holds."""
    seen: set[int] = set()
    frames = list(user_frames())
    for scope in (*(f.f_locals for f in frames), *(f.f_globals for f in frames)):
        for name, value in list(scope.items()):
            if (
                id(value) in seen
                or name.startswith("__")
                or type(value) in PROXIES
                or isinstance(value, (type, ModuleType, FunctionType))
            ):
                continue
            seen.add(id(value))
            yield name, value
            if name == "self":
                yield from ((f"self.{key}", inner) for key, inner in vars_of(value).items())


def vars_of(value: Any) -> dict[str, Any]:
    """Return an object's attributes, but for weak proxies."""
    return {name: held for name, held in dict(getattr(value, "__dict__", {})).items() if type(held) not in PROXIES}


def has_method(thing: Any, name: str) -> bool:
    """Whether an object has a method, of its class or its own. Not what `__getattr__` says: some have an answer to every name."""
    return callable(getattr(type(thing), name, None)) or callable(vars_of(thing).get(name))


def name_of(thing: Any) -> str | None:
    """Return the name of the variable that holds this object, if one is in sight."""
    return next((name for name, value in variables() if value is thing), None)
