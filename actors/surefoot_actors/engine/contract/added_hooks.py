"""Sees hooks that come or go, and numbers that become others, in the midst of training: a trainer that joins would not have them so."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from surefoot.errors import ContractError
from surefoot_actors.engine.state.tracked import Tracked
from surefoot_actors.user_code.lines import user_line

__all__ = ["AddedHooks"]

# The hook by which a lazy module takes its shape; it goes once that has happened.
_LAZY = "_infer_parameters"


class AddedHooks:
    """Hooks of tracked modules, parameters and optimizers, and the dtypes of parameters, as they are when the loop begins."""

    def __init__(self, tracked: Tracked) -> None:
        self._tracked = tracked
        self._first = RemovableHandle.next_id
        parts = [named for name, module in tracked.modules.items() for named in module.named_modules(prefix=name)]
        self._names = {id(thing): name for name, thing in (*parts, *tracked.parameters(), *tracked.optimizers.items())}
        self._dtypes = [(name, p, p.dtype) for name, p in tracked.parameters()]
        # what was added in this step, and is still there, and what was taken away
        self._added: list[tuple[RemovableHandle, str]] = []
        self._removed: list[str] = []
        # the line that has last converted a module
        self._converted = ""

    def added(self, owner: Any, handle: Any) -> None:
        name = self._names.get(id(owner))
        if name is not None and isinstance(handle, RemovableHandle) and not _is_of_torch(handle):
            self._added.append((handle, f"a hook of {name} was registered at {user_line(3)}"))

    def removed(self, handle: RemovableHandle) -> None:
        """A hook is about to be taken away."""
        hooks = handle.hooks_dict_ref()
        if handle.id >= self._first or hooks is None or handle.id not in hooks:
            return
        if getattr(hooks[handle.id], "__name__", "") == _LAZY:
            return
        owner = next((name for name, part in self._owners() if any(v is hooks for v in vars(part).values())), None)
        if owner is not None:
            self._removed.append(f"a hook of {owner} was removed at {user_line(3)}")

    def _owners(self) -> list[tuple[str, Any]]:
        parts = [named for name, module in self._tracked.modules.items() for named in module.named_modules(prefix=name)]
        return [*parts, *self._tracked.optimizers.items()]

    def converted(self, module: nn.Module) -> None:
        if id(module) in self._names:
            self._converted = user_line(3)

    def check(self) -> None:
        """A step ends. Raise ContractError where a hook stays that was not there before, or one is gone, or numbers are others."""
        if self._added or self._removed:
            there = [words for handle, words in self._added if handle.id in (handle.hooks_dict_ref() or ())]
            found, self._added, self._removed = [*there, *self._removed], [], []
            if found:
                raise ContractError(
                    f"{found[0]}, in the midst of training: a trainer that joins later runs only the code before run.steps(), and "
                    f"would train otherwise. Register hooks before run.steps(), and let them do something or nothing by a value (an "
                    f"attribute, a buffer); or take one away again in the step that has registered it"
                )
        if self._converted:
            line, self._converted = self._converted, ""
            for name, parameter, dtype in self._dtypes:
                if parameter.dtype != dtype and not nn.parameter.is_lazy(parameter):
                    raise ContractError(
                        f"{name} was made {_short(parameter.dtype)} at {line}, in the midst of training, where it was {_short(dtype)}: a "
                        f"trainer that joins builds it by the code before run.steps(), and could not take it over; convert the model there"
                    )


def _is_of_torch(handle: RemovableHandle) -> bool:
    """Whether it is a hook of pruning or the like: what that does is in buffers, and a part that is new is refused as such."""
    hook = (handle.hooks_dict_ref() or {}).get(handle.id)
    return type(hook).__module__.startswith("torch.nn.utils.")


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
