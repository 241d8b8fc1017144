"""Hooks in torch's own classes, there only while a run is under way, and deaf to every thread but the run's own."""

from __future__ import annotations

import functools
import inspect
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FunctionType
from typing import Any, Protocol

import torch
from torch import nn
from torch.optim.lr_scheduler import LRScheduler
from torch.optim.optimizer import Optimizer, register_optimizer_step_pre_hook
from torch.optim.swa_utils import AveragedModel
from torch.utils.hooks import RemovableHandle

__all__ = ["SETTERS", "Watcher", "watching"]

#: functions of torch that change how a process computes; `torch.backends` are plain attributes, which nothing can stand in front of
SETTERS = (
    "set_num_threads",
    "use_deterministic_algorithms",
    "set_deterministic_debug_mode",
    "set_default_dtype",
    "set_float32_matmul_precision",
    "set_flush_denormal",
)

_STEPS: dict[type, tuple[str, ...]] = {
    LRScheduler: ("step",),
    torch.amp.GradScaler: ("step", "update"),
    AveragedModel: ("update_parameters",),
}

# Methods that register hooks.
_REGISTERS: dict[type, tuple[str, ...]] = {
    nn.Module: (
        "register_forward_hook", "register_forward_pre_hook", "register_full_backward_hook", "register_full_backward_pre_hook",
    ),
    Optimizer: ("register_step_pre_hook", "register_step_post_hook"),
    torch.Tensor: ("register_hook", "register_post_accumulate_grad_hook"),
}  # fmt: skip


class Watcher(Protocol):
    """What a run wants to hear of, on its own thread. Whatever is raised here passes to the user's code instead of the call."""

    def before_optimizer(self, optimizer: Optimizer) -> None: ...

    def before_step(self, thing: Any, method: str) -> None:
        """A scheduler, scaler or averaged model is about to change."""

    def after_step(self, thing: Any, method: str, given: Any) -> None:
        """It has changed. `given`: its first argument, None where there was none."""

    def before_zero_grad(self, owner: Any) -> None: ...

    def before_setting(self, name: str) -> None: ...

    def before_backward(self, tensors: Any, inputs: Any, *, puts: bool, makes_graph: bool) -> None:
        """A pass begins, for all leaves or these inputs. `puts`: into .grad; `makes_graph`: of what it computes itself."""

    def added_hook(self, owner: Any, handle: Any) -> None: ...

    def before_removed_hook(self, handle: RemovableHandle) -> None: ...

    def converted(self, module: nn.Module) -> None:
        """A module's numbers may be of another kind now."""


_lock = threading.Lock()
_watchers: dict[int, Watcher] = {}
_undo: list[Callable[[], None]] = []
# how deep in watched methods a thread is: a SequentialLR steps others, which are its own business
_depth = threading.local()


@contextmanager
def watching(watcher: Watcher) -> Iterator[None]:
    """Tell `watcher` of what this thread steps, clears and sets, within. Runs of other threads, or one around this one, are as before."""
    thread = threading.get_ident()
    with _lock:
        outer = _watchers.get(thread)
        _watchers[thread] = watcher
        if not _undo:
            _install()
    try:
        yield
    finally:
        with _lock:
            if outer is None:
                del _watchers[thread]
            else:
                _watchers[thread] = outer
            if not _watchers:
                while _undo:
                    _undo.pop()()


def _watcher() -> Watcher | None:
    """Return who is told of what this thread does; nobody while torch compiles it, as calls are read there, not made."""
    return None if torch.compiler.is_compiling() else _watchers.get(threading.get_ident())


def _install() -> None:
    handle = register_optimizer_step_pre_hook(_before_optimizer)
    _undo.append(handle.remove)
    for base, methods in _STEPS.items():
        for kind in (base, *_subclasses(base)):
            for method in methods:
                if isinstance(vars(kind).get(method), FunctionType):
                    _replace(kind, method, _stepping(method, vars(kind)[method]))
    for kind in (nn.Module, Optimizer, *_subclasses(Optimizer)):
        if isinstance(vars(kind).get("zero_grad"), FunctionType):
            _replace(kind, "zero_grad", _clearing(vars(kind)["zero_grad"]))
    for name in SETTERS:
        _replace(torch, name, _setting(name, getattr(torch, name)))
    # what `backward` and `grad` call in the end, also where the user's code has imported them by name
    _replace(torch.autograd, "_engine_run_backward", _passing(vars(torch.autograd)["_engine_run_backward"]))
    for owner, methods in _REGISTERS.items():
        for method in methods:
            _replace(owner, method, _registering(vars(owner)[method]))
    _replace(RemovableHandle, "remove", _removing(RemovableHandle.remove))
    _replace(nn.Module, "_apply", _converting(nn.Module._apply))


def _subclasses(kind: type) -> Iterator[type]:
    subclasses: list[type] = kind.__subclasses__()
    for sub in subclasses:
        yield sub
        yield from _subclasses(sub)


def _replace(owner: Any, name: str, function: Any) -> None:
    original = vars(owner)[name]
    setattr(owner, name, function)
    _undo.append(lambda: setattr(owner, name, original))


def _before_optimizer(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
    watcher = _watcher()
    if watcher is not None:
        watcher.before_optimizer(optimizer)


def _stepping(method: str, original: Callable[..., Any]) -> Callable[..., Any]:
    first = next(iter(list(inspect.signature(original).parameters)[1:]), "")

    @functools.wraps(original)
    def step(self: Any, *args: Any, **kwargs: Any) -> Any:
        watcher = _watcher()
        depth = getattr(_depth, "value", 0)
        if watcher is None or depth:
            return original(self, *args, **kwargs)
        watcher.before_step(self, method)
        _depth.value = 1
        try:
            result = original(self, *args, **kwargs)
        finally:
            _depth.value = 0
        watcher.after_step(self, method, args[0] if args else kwargs.get(first))
        return result

    return step


def _clearing(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def zero_grad(self: Any, *args: Any, **kwargs: Any) -> Any:
        watcher = _watcher()
        if watcher is not None:
            watcher.before_zero_grad(self)
        return original(self, *args, **kwargs)

    return zero_grad


def _setting(name: str, original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def set_(*args: Any, **kwargs: Any) -> Any:
        watcher = _watcher()
        if watcher is not None:
            watcher.before_setting(name)
        return original(*args, **kwargs)

    return set_


def _passing(original: Callable[..., Any]) -> Callable[..., Any]:
    """Of what every pass comes to, however it was asked for, its arguments in torch's own order."""

    @functools.wraps(original)
    def run(
        outputs: Any, gradients: Any, keep_graph: Any, create_graph: Any, inputs: Any, *args: Any, **kwargs: Any
    ) -> Any:
        watcher = _watcher()
        if watcher is not None:
            puts = kwargs.get("accumulate_grad", False)
            watcher.before_backward(outputs, inputs or None, puts=puts, makes_graph=bool(create_graph))
        return original(outputs, gradients, keep_graph, create_graph, inputs, *args, **kwargs)

    return run


def _registering(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def register(self: Any, *args: Any, **kwargs: Any) -> Any:
        handle = original(self, *args, **kwargs)
        watcher = _watcher()
        if watcher is not None:
            watcher.added_hook(self, handle)
        return handle

    return register


def _removing(original: Callable[[RemovableHandle], None]) -> Callable[[RemovableHandle], None]:
    @functools.wraps(original)
    def remove(self: RemovableHandle) -> None:
        watcher = _watcher()
        if watcher is not None:
            watcher.before_removed_hook(self)
        original(self)

    return remove


def _converting(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def apply(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        result = original(self, *args, **kwargs)
        watcher = _watcher()
        if watcher is not None:
            watcher.converted(self)
        return result

    return apply
