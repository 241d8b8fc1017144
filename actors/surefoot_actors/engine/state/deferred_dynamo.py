"""Torch's compiler is imported when something is compiled, and not for optimizers that are not.

Torch's optimizers import `torch._dynamo` when they are made and when they step, only to tell it to leave them alone: more than a second
of a trainer's start, and some tens of megabytes. While nobody else has imported it nothing is compiled, and there is nobody to be told.
From when it is imported on, torch's own code runs as ever.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from types import FunctionType
from typing import Any

import torch
from torch.optim.optimizer import Optimizer

__all__ = ["defer_dynamo"]

_DYNAMO = "torch._dynamo"
# what the two kinds of wrapper are called in torch, and where the first keeps what it calls
_DISABLED, _KEPT, _WITH_BREAKS = "inner", "__dynamo_disable", "_use_grad"


def defer_dynamo() -> None:
    """Have torch's optimizers do without the compiler until something else imports it. Once is enough; more often does no harm."""
    if _DYNAMO in sys.modules:
        return
    for method in vars(Optimizer).values():
        if _is_wrapper(method, _DISABLED) and not hasattr(method.__wrapped__, _KEPT):
            setattr(method.__wrapped__, _KEPT, _undisabled(method))
    for kind in vars(torch.optim).values():
        step = vars(kind).get("step") if isinstance(kind, type) and issubclass(kind, Optimizer) else None
        if _is_wrapper(step, _WITH_BREAKS):
            kind.step = _without_breaks(step)


def _is_wrapper(method: Any, name: str) -> bool:
    return isinstance(method, FunctionType) and hasattr(method, "__wrapped__") and method.__code__.co_name == name


def _undisabled(method: Any) -> Callable[..., Any]:
    """Return what a method calls in place of what the compiler would make of it."""
    function = method.__wrapped__

    def call(*arguments: Any, **more: Any) -> Any:
        if _DYNAMO not in sys.modules:
            return function(*arguments, **more)
        vars(function).pop(_KEPT, None)
        return method(*arguments, **more)

    return call


def _without_breaks(torchs: Any) -> Callable[..., Any]:
    """Return a `step` that is torch's without breaks in a graph that nobody makes."""
    function = torchs.__wrapped__

    @functools.wraps(torchs)
    def step(*arguments: Any, **more: Any) -> Any:
        if _DYNAMO in sys.modules:
            return torchs(*arguments, **more)
        before = torch.is_grad_enabled()
        try:
            torch.set_grad_enabled(arguments[0].defaults["differentiable"])
            return function(*arguments, **more)
        finally:
            torch.set_grad_enabled(before)

    return step
