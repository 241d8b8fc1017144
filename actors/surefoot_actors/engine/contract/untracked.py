"""Finds models that train without being tracked: once, in a trainer's first sub-task, so that it costs nothing afterwards.

It looks at the variables of the user's frames, and hangs no hooks on modules: those could change what a compiler makes of them.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from types import FrameType
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from surefoot.errors import ContractError
from surefoot_actors.engine.state.tracked import Tracked
from surefoot_actors.user_code.frames import PROXIES
from surefoot_actors.user_code.lines import is_ours

__all__ = ["UntrackedModules"]


class Seen(NamedTuple):
    """A module that the user's variables hold."""

    path: str
    module: nn.Module
    # of its parameters, how often they were written
    versions: tuple[int, ...]


class UntrackedModules:
    """Looks once, around the first sub-task that this trainer computes."""

    def __init__(
        self,
        tracked: Tracked,
        parameters: Sequence[tuple[str, torch.Tensor]],
        on_clones: Callable[[list[nn.Module]], None],
    ) -> None:
        self._tracked, self._parameters, self._on_clones = tracked, parameters, on_clones
        self._in_sight: list[Seen] = []
        self._looked = False

    def open(self) -> None:
        """A round begins."""
        if not self._looked:
            self._in_sight = _modules_in_sight()

    def check(self, line: str) -> None:
        """A sub-task has ended. Raises ContractError when something trains in the inner loop at this line that is not tracked."""
        if self._looked:
            return
        self._looked = True
        buffers = (b for module in self._tracked.modules.values() for b in module.buffers())
        known = {id(t) for t in (*(p for _, p in self._parameters), *buffers)}
        self._on_clones(_check_all(self._in_sight, known, line))
        self._in_sight = []


def _modules_in_sight() -> list[Seen]:
    """Return the modules that the user's variables hold, with their names."""
    found: list[Seen] = []
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if not is_ours(frame.f_code.co_filename):
            for name, value in frame.f_locals.items():
                found += _modules(name, value) if type(value) not in PROXIES else ()
        frame = frame.f_back
    return found


def _check_all(modules: Iterable[Seen], tracked: Collection[int], line: str) -> list[nn.Module]:
    """Raise ContractError when a module has gradients, but parameters or buffers that are not among `tracked`, ids of tensors.

    `modules` were in sight before the sub-task: what it makes for itself, a copy to try a step on, is its own business. So is a clone
    that it writes, to train it a little from the model's weights: that it starts anew each time is seen as a sub-task is computed
    twice. Returns those clones.
    """
    clones = []
    for seen in modules:
        if _versions(seen.module) != seen.versions and not any(id(p) in tracked for p in seen.module.parameters()):
            clones.append(seen.module)
        else:
            _check(seen.path, seen.module, tracked, line)
    return clones


def _versions(module: nn.Module) -> tuple[int, ...]:
    return tuple(-1 if is_lazy(p) or p.is_inference() else p._version for p in module.parameters())


def _modules(name: str, value: Any) -> Iterator[Seen]:
    if isinstance(value, nn.Module):
        yield Seen(name, value, _versions(value))
    elif name == "self":
        for key, inner in vars(value).items() if hasattr(value, "__dict__") else ():
            if type(inner) not in PROXIES and isinstance(inner, nn.Module):
                yield Seen(f"self.{key}", inner, _versions(inner))


def _check(path: str, module: nn.Module, tracked: Collection[int], line: str) -> None:
    parameters = list(module.named_parameters())
    if all(p.grad is None for _, p in parameters):
        return
    missed = [name for name, p in parameters if id(p) not in tracked and p.grad is not None]
    missed += [name for name, b in module.named_buffers() if id(b) not in tracked]
    if missed:
        raise ContractError(
            f"{path} ({type(module).__name__}) is not tracked, yet the inner loop at {line} trains it: its {missed[0]} would go its "
            f"own way on every trainer; name it in run.track({path.rpartition('.')[2]}={path}, ...)"
        )
