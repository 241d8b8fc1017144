"""What training steps must be tracked, and is stepped between inner loops: seen at the first call, by hooks in torch's classes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn
from torch.optim.lr_scheduler import LRScheduler
from torch.optim.swa_utils import AveragedModel
from torch.utils.hooks import RemovableHandle

from surefoot.errors import ContractError
from surefoot_actors.engine.contract.added_hooks import AddedHooks
from surefoot_actors.engine.contract.graphs import Graphs, leaves, roots
from surefoot_actors.engine.contract.settings import SettingsWatch
from surefoot_actors.engine.state.tracked import Tracked
from surefoot_actors.user_code.frames import PROXIES, has_method, name_of, vars_of
from surefoot_actors.user_code.lines import user_line

__all__ = ["Stepped", "covered"]

Place = tuple[int, int, int]
"""Step, round and sub-task; -1 outside of a sub-task."""


class Stepped:
    """Implements `hooks.Watcher` for a run."""

    def __init__(
        self,
        tracked: Tracked,
        settings: SettingsWatch,
        *,
        place: Callable[[], Place],
        loop: Callable[[], str | None],
        graphs: Graphs,
    ) -> None:
        self._tracked = tracked
        self._settings = settings
        # where training is, and the line of the inner loop under way
        self._place, self._loop = place, loop
        self._graphs, self._hooks = graphs, AddedHooks(tracked)
        self._known = covered(tracked)
        # where things that are not tracked, and touch nothing that is, were stepped first: they may live in one place only
        self._places: WeakKeyDictionary[Any, Place] = WeakKeyDictionary()

    def before_optimizer(self, optimizer: torch.optim.Optimizer) -> None:
        if not self._is_known(optimizer):
            self._judge(optimizer, "step", is_training=self._has_tracked_parameters(optimizer))

    def before_step(self, thing: Any, method: str) -> None:
        if isinstance(thing, torch.amp.GradScaler) and not thing.is_enabled():
            return
        if self._is_known(thing):
            if self._loop() is not None:
                raise ContractError(self._inside(thing, method))
        elif isinstance(thing, LRScheduler):
            optimizer = thing.optimizer
            self._judge(thing, method, is_training=self._is_known(optimizer) or self._has_tracked_parameters(optimizer))
        else:
            self._judge(thing, method, is_training=self._loop() is None)

    def after_step(self, thing: Any, method: str, given: Any) -> None:
        # a scaler that skips a step has used the gradients too
        if method == "step" and isinstance(thing, torch.amp.GradScaler):
            for optimizer in self._tracked.optimizers.values():
                if optimizer is given:
                    self._tracked.gradients.used(optimizer)

    def before_zero_grad(self, owner: Any) -> None:
        gradients = self._tracked.gradients
        if self._loop() is not None or not (gradients.unused or len(self._tracked.optimizers) > 1):
            return
        if isinstance(owner, nn.Module):
            gradients.cleared(owner.parameters(), "zero_grad()", user_line())
        else:
            gradients.cleared([p for group in owner.param_groups for p in group["params"]], "zero_grad()", user_line())

    def before_setting(self, name: str) -> None:
        self._settings.called(name, user_line())

    def before_backward(self, tensors: Any, inputs: Any, *, puts: bool, makes_graph: bool) -> None:
        inside = self._loop() is not None
        if inside and not makes_graph and not self._graphs.thorough:
            return  # nearly always
        self._graphs.before_pass(tensors, makes_graph=makes_graph)
        if puts and inputs is not None:
            return
        if not inside and self._tracked.gradients.without and self._trains(tensors, inputs):
            self._tracked.gradients.check_backward(user_line(3))
        self._graphs.before_backward(tensors, inside=inside)

    def _trains(self, tensors: Any, inputs: Any) -> bool:
        """Whether a pass computes gradients of tracked parameters. Those that are wrapped, as torch.func does, are taken for such."""
        own = {id(p) for _, p in self._tracked.parameters()}
        wanted = leaves(tensors) if inputs is None else roots(inputs)
        return any(id(t) in own or torch._C._functorch.is_functorch_wrapped_tensor(t) for t in wanted)

    def added_hook(self, owner: Any, handle: Any) -> None:
        self._hooks.added(owner, handle)

    def before_removed_hook(self, handle: RemovableHandle) -> None:
        self._hooks.removed(handle)

    def converted(self, module: nn.Module) -> None:
        self._hooks.converted(module)

    def end_step(self) -> None:
        self._hooks.check()

    def _is_known(self, thing: Any) -> bool:
        if id(thing) in self._known:
            return True
        self._known = covered(self._tracked)
        return id(thing) in self._known

    def _has_tracked_parameters(self, optimizer: Any) -> bool:
        own = {id(p) for _, p in self._tracked.parameters()}
        return any(id(p) in own for group in optimizer.param_groups for p in group["params"])

    def _judge(self, thing: Any, method: str, *, is_training: bool) -> None:
        """Raise ContractError when a thing that is not tracked is part of training: what a sub-task makes for itself is not."""
        if is_training:
            raise ContractError(self._untracked(thing, method))
        here = self._place()
        # plain SGD in a sub-task carries nothing from one to the next
        in_sub_task = here[2] >= 0 and isinstance(thing, torch.optim.Optimizer)
        carries = not in_sub_task or any(thing.state.values())
        if self._places.setdefault(thing, here) != here and carries:
            raise ContractError(self._untracked(thing, method))

    def _untracked(self, thing: Any, method: str) -> str:
        path = name_of(thing)
        name = path.rpartition(".")[2] if path else "name"
        return (
            f"{path or 'an object'} ({type(thing).__name__}) is not tracked, but its {method}() at {user_line()} is part of training: on "
            f"a trainer that joins, or in a run that goes on from a checkpoint, it would begin anew; name it in "
            f"run.track({name}={path or '...'}, ...)"
        )

    def _inside(self, thing: Any, method: str) -> str:
        return (
            f"{name_of(thing) or type(thing).__name__}.{method}() at {user_line()} stands inside the inner loop at {self._loop()}, which "
            f"turns once a sub-task: it would be called more often the fewer trainers there are; move it after the loop"
        )


def covered(tracked: Tracked) -> set[int]:
    """Return the ids of everything that is in the tracked state: what is tracked, its submodules, and what its own state_dict saves."""
    known = {id(optimizer) for optimizer in tracked.optimizers.values()}
    for thing in tracked.things:
        known.add(id(thing))
        if isinstance(thing, nn.Module):
            known.update(map(id, thing.modules()))
        if _saves_its_own(thing):
            known.update(id(inner) for inner in _inner(thing, 3))
    return known


def _saves_its_own(thing: Any) -> bool:
    """Whether the object's class decides what is in its state, so that things it holds may be."""
    kind = type(thing)
    if isinstance(thing, nn.Module):
        return kind.state_dict is not nn.Module.state_dict or kind.get_extra_state is not nn.Module.get_extra_state
    if isinstance(thing, torch.optim.Optimizer):
        return kind.state_dict is not torch.optim.Optimizer.state_dict
    return True


def _inner(thing: Any, depth: int) -> Iterator[Any]:
    """Yield what can be stepped, out of the object's attributes and the lists and dicts among them."""
    held = [v for k, v in vars_of(thing).items() if not (isinstance(thing, LRScheduler) and k == "optimizer")]
    for value in held:
        for inner in (
            value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else (value,)
        ):
            if type(inner) in PROXIES:
                continue
            if isinstance(inner, (torch.optim.Optimizer, LRScheduler, torch.amp.GradScaler, AveragedModel)):
                yield inner
            if depth > 1 and has_method(inner, "state_dict") and not isinstance(inner, nn.Module):
                yield from _inner(inner, depth - 1)
