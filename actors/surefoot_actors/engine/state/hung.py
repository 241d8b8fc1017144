"""The user's functions and objects that hang on tracked objects of libraries: the lambda of a schedule, and what it counts."""

from __future__ import annotations

import types
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import LRScheduler

from surefoot_actors.engine.state.parts import is_of_the_user

__all__ = ["hung_on"]

_FUNCTIONS = (types.FunctionType, types.MethodType, partial)


def hung_on(thing: Any) -> Iterator[tuple[str, Any]]:
    """Yield (name, function or object) of what the user has given to a tracked object that is no module."""
    if isinstance(thing, torch.optim.Optimizer):
        yield "defaults", thing.defaults  # of groups that are added
    elif not isinstance(thing, nn.Module | dict):
        for name, value in list(getattr(thing, "__dict__", {}).items()):
            for place, each in enumerate(value if isinstance(value, list | tuple) else (value,)):
                if isinstance(each, LRScheduler) and each is not thing:
                    yield from ((f"{name}[{place}].{inner}", v) for inner, v in hung_on(each))
                elif isinstance(each, _FUNCTIONS) or is_of_the_user(type(each)):
                    yield f"{name}[{place}]", each
