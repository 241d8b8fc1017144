"""The user's functions and objects that hang on tracked objects: the lambda of a schedule, a hook, and what they count."""

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
# So many wrappers are looked under.
_WRAPPED = 4
# Where torch keeps hooks.
_OF_OPTIMIZERS = ("_optimizer_step_pre_hooks", "_optimizer_step_post_hooks")
_OF_MODULES = ("_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks")


def hung_on(thing: Any) -> Iterator[tuple[str, Any]]:
    """Yield (name, function or object) of what the user has given to a tracked object, besides its attributes."""
    if isinstance(thing, torch.optim.Optimizer):
        yield "defaults", thing.defaults  # of groups that are added
        yield from _in_place_of_methods(thing)
        yield from _hooks(thing, _OF_OPTIMIZERS)
    elif isinstance(thing, nn.Module):
        yield from _hooks(thing, _OF_MODULES)
    elif not isinstance(thing, dict):
        for name, value in list(getattr(thing, "__dict__", {}).items()):
            for place, each in enumerate(value if isinstance(value, list | tuple) else (value,)):
                if isinstance(each, LRScheduler) and each is not thing:
                    yield from ((f"{name}[{place}].{inner}", v) for inner, v in hung_on(each))
                elif isinstance(each, _FUNCTIONS) or is_of_the_user(type(each)):
                    yield f"{name}[{place}]", each


def _in_place_of_methods(optimizer: Any) -> Iterator[tuple[str, Any]]:
    """Yield what was put in place of an optimizer's methods: torch's schedules wrap what they find there once more."""
    for name, value in list(vars(optimizer).items()):
        for deep in range(_WRAPPED):
            if isinstance(value, _FUNCTIONS):
                yield f"{name}[{deep}]", value
            value = getattr(value, "__wrapped__", None)


def _hooks(thing: Any, places: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
    """Yield hooks by the order in which they were added: their numbers go on through all objects of a process."""
    for place in places:
        for i, hook in enumerate(list(getattr(thing, place, {}).values())):
            if isinstance(hook, _FUNCTIONS) or is_of_the_user(type(hook)):
                yield f"{place}[{i}]", hook
