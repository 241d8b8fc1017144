"""Objects that the user's code has in sight when its loop begins: datasets, and instances of its own classes."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from surefoot_actors.engine.caller import is_library
from surefoot_actors.engine.sight import user_frames
from surefoot_actors.engine.state.attributes import Variables

__all__ = ["objects_in_sight", "variables_in_sight"]

# How deep objects are looked for inside others, and how many at most.
_DEPTH, _MOST = 3, 256


def variables_in_sight() -> Iterator[tuple[str, Variables | dict[str, Any]]]:
    """Yield (path, variables) of the user's functions that are under way, and of their modules."""
    seen: set[int] = set()
    for depth, frame in enumerate(user_frames()):
        if is_library(frame.f_code.co_filename):
            continue
        yield f"{depth}:{frame.f_code.co_qualname}", Variables(frame)
        if id(frame.f_globals) not in seen:
            seen.add(id(frame.f_globals))
            yield f"module {frame.f_globals.get('__name__')}", frame.f_globals


def objects_in_sight() -> Iterator[tuple[str, object]]:
    """Yield (path, object) of what the loop may change without it being tracked; the same paths on every trainer.

    Modules and optimizers are not among them: they are tracked, or refused.
    """
    seen: set[int] = set()
    for depth, frame in enumerate(user_frames()):
        for name, value in list(frame.f_locals.items()):
            for path, thing in _inside(f"{depth}:{name}", value, _DEPTH, seen):
                yield path, thing
                if len(seen) > _MOST:
                    return


def _inside(path: str, value: Any, depth: int, seen: set[int]) -> Iterator[tuple[str, object]]:
    if not _is_of_the_user(value) or id(value) in seen:
        return
    seen.add(id(value))
    yield path, value
    if depth:
        for name, inner in list(vars(value).items()):
            yield from _inside(f"{path}.{name}", inner, depth - 1, seen)


def _is_of_the_user(value: Any) -> bool:
    kind = type(value)
    if not hasattr(value, "__dict__") or isinstance(value, type | nn.Module | torch.optim.Optimizer | torch.Tensor):
        return False
    if callable(getattr(kind, "__getitem__", None)) and callable(getattr(kind, "__len__", None)):
        return not isinstance(value, dict | list | tuple | str)
    return _is_users_class(kind)


def _is_users_class(kind: type) -> bool:
    file = getattr(sys.modules.get(kind.__module__), "__file__", None)
    return kind.__module__ == "__main__" or (isinstance(file, str) and not is_library(file))
