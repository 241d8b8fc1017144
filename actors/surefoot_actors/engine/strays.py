"""Finds models that train without being tracked: once, in a trainer's first sub-task, so that it costs nothing afterwards.

It looks at the variables of the user's frames, and hangs no hooks on modules: those could change what a compiler makes of them.
"""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterable, Iterator
from types import FrameType
from typing import Any

from torch import nn

from surefoot.errors import ContractError
from surefoot_actors.engine.caller import is_ours

__all__ = ["check_strays", "modules_in_sight"]


def modules_in_sight() -> list[tuple[str, nn.Module]]:
    """Return the modules that the user's variables hold, with their names."""
    found: list[tuple[str, nn.Module]] = []
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if not is_ours(frame.f_code.co_filename):
            for name, value in frame.f_locals.items():
                found += _modules(name, value)
        frame = frame.f_back
    return found


def check_strays(modules: Iterable[tuple[str, nn.Module]], tracked: Collection[int], line: str) -> None:
    """Raise ContractError when a module has gradients, but parameters or buffers that are not among `tracked`, ids of tensors.

    `modules` were in sight before the sub-task: what it makes for itself, a copy to try a step on, is its own business.
    """
    for path, module in modules:
        _check(path, module, tracked, line)


def _modules(name: str, value: Any) -> Iterator[tuple[str, nn.Module]]:
    if isinstance(value, nn.Module):
        yield name, value
    elif name == "self":
        for key, inner in vars(value).items() if hasattr(value, "__dict__") else ():
            if isinstance(inner, nn.Module):
                yield f"self.{key}", inner


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
