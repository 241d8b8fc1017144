"""Finds state that nobody tracks among what the user's code has in sight: what differs between the first two steps' ends.

Only there, so that it costs nothing afterwards, but for iterators, of which it is asked ever more seldom. What is rebound at every step,
a loss say, is no state; what lives on and changes is.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import nn

from surefoot.contract import Run, Step
from surefoot.errors import ContractError
from surefoot_actors.engine.contract.stepped import covered
from surefoot_actors.engine.contract.unchanged import sample
from surefoot_actors.engine.state.digest import canonical
from surefoot_actors.engine.state.generators import state_of
from surefoot_actors.engine.state.parts import is_of_the_user
from surefoot_actors.engine.state.survey import Survey
from surefoot_actors.engine.state.tracked import Tracked
from surefoot_actors.user_code.frames import PROXIES, has_method, variables, vars_of

__all__ = ["UntrackedState"]

# Metrics only look at training; their classes are told by where they come from.
_METRICS = ("torchmetrics", "torcheval")
_MOST = 2000


class UntrackedState:
    """Looks at the end of a trainer's first step and of its second; at those of later ones for iterators alone."""

    def __init__(self, tracked: Tracked, line: str, on_warning: Callable[[str], None] | None) -> None:
        self._tracked, self._line, self._on_warning = tracked, line, on_warning
        self._num_looks, self._told_iterator = 0, False
        self._left_alone: set[int] = set()
        # by id: the thing, its digest, and a generator's seed
        self._first: dict[int, tuple[Any, bytes, int]] = {}
        self._tensors: dict[str, tuple[Any, Any, int]] = {}

    def leave_alone(self, modules: Iterable[nn.Module]) -> None:
        """These begin anew in every sub-task."""
        self._left_alone = {id(part) for module in modules for part in module.modules()}

    def look(self, step: int) -> None:
        """A step ends. Raises ContractError at the second one for an object that has changed, and is not tracked.

        One that begins to change later is told to joiners where it is in reach, and then no error of those alone. An iterator that goes
        on later may only serve what is shown (the colors of a plot): that is a warning, told once.
        """
        self._num_looks += 1
        if self._num_looks > 2:
            if step & (step - 1) == 0:  # ever more seldom
                self._warn_of_iterators()
            return
        known = covered(self._tracked) | self._left_alone
        found = {**dict(self._tracked.attributes.generators()), **dict(_things(known))}
        if self._num_looks == 1:
            self._first = {id(thing): (thing, self._digest(thing), _seed(thing)) for thing in found.values()}
            self._tensors = dict(self._loose())
            self._tracked.attributes.find_iterators()
            return
        for name, thing in found.items():
            first = self._first.get(id(thing))
            # a generator that is seeded anew at every step is in order, as is one that only the loop over steps draws from
            is_generator, attributes = state_of(thing) is not None, self._tracked.attributes
            told = attributes.keeps(thing) if is_generator else step > 1 and attributes.tells(thing)
            if not told and first is not None and first[2] == _seed(thing) and self._digest(thing) != first[1]:
                raise ContractError(self._changed(name, thing))
        for name, module in self._tracked.attributes.written_in_sub_tasks():
            # one of the user's own may be a meter
            if id(module) not in known and not _is_metric(module) and not is_of_the_user(type(module)):
                raise ContractError(
                    f"{name}, a buffer of a module that is not tracked, is written in the inner loop of the loop at {self._line}: it "
                    f"would be this trainer's own; name its module in run.track"
                )
        if names := self._tracked.attributes.trained_by_hand():
            raise ContractError(
                f"{names[0]} gets a gradient in the inner loop, and the steps of the loop at {self._line} change it by hand, but it is not "
                f"tracked: its gradient is this trainer's own, merged with nobody's. Make it a parameter of a tracked module or optimizer"
            )
        if step > 1:  # of a trainer that has joined
            self._warn_of_iterators()
        elif carried := next(self._tracked.attributes.carried_on(), None):
            raise ContractError(self._iterator(carried))
        self._warn()
        self._first.clear()
        self._tensors.clear()

    def _warn_of_iterators(self) -> None:
        if self._on_warning is None or self._told_iterator:
            return
        if carried := next(self._tracked.attributes.carried_on(), None):
            self._told_iterator = True
            self._on_warning(self._iterator(carried))

    def _changed(self, name: str, thing: Any) -> str:
        kind = type(thing).__name__
        if state_of(thing) is not None:
            return (
                f"{name} ({kind}) is carried on from step to step in the loop at {self._line}, and sub-tasks draw from it: on a trainer "
                f"that joins, or after a restore, it would begin anew, and its draws depend on who computes what. Draw from torch, "
                f"numpy's or random's global streams, which are seeded for every sub-task, or make the generator where it is used, seeded "
                f"by step.number"
            )
        if has_method(thing, "state_dict"):
            advice = f"name it in run.track({re.findall(r'[A-Za-z_0-9]+', name)[-1]}={name}, ...)"
        else:
            advice = "give it state_dict and load_state_dict, and name it in run.track"
        return (
            f"{name} ({kind}) is not tracked, but the steps of the loop at {self._line} change it: on a trainer that joins, or in a run "
            f"that goes on from a checkpoint, it would begin anew; {advice}"
        )

    def _iterator(self, name: str) -> str:
        return (
            f"{name} is a generator or another iterator that the steps of the loop at {self._line} carry on: on a trainer that joins, or "
            f"in a run that goes on from a checkpoint, it would begin anew; compute the value from step.number (a DataLoader's batch: by "
            f"index from its dataset), or keep what it counts in a variable"
        )

    def _digest(self, thing: Any) -> bytes:
        """Return a digest of what the thing's state has besides that of tracked objects, which it may hold."""
        generator = state_of(thing)
        if generator is not None:
            return canonical(generator)
        survey = Survey()
        tree = None
        if isinstance(thing, nn.Module):
            for name, tensor in (*thing.named_parameters(), *thing.named_buffers()):
                survey.number(name, tensor)
        else:
            try:
                state = thing.state_dict()
            except Exception:  # noqa: BLE001  the edge to an object that nobody has asked for its state: there may be none yet
                return b""
            if isinstance(state, dict):
                tracked = [
                    canonical(Survey().tree("", t.state_dict()))
                    for t in self._tracked.things
                    if not isinstance(t, dict)
                ]
                state = {k: v for k, v in state.items() if canonical(Survey().tree("", v)) not in tracked}
            tree = survey.tree("", state)
        own = {id(entry.tensor) for entry in self._tracked.survey().entries}
        return canonical(tree) + b"".join([sample(e.tensor) for e in survey.entries if id(e.tensor) not in own])

    def _loose(self) -> Iterator[tuple[str, tuple[Any, Any, int]]]:
        """Yield tensors that lie in objects and containers in sight, and in variables, by name: holder, tensor, version."""
        own = {id(entry.tensor) for entry in self._tracked.survey().entries}
        own.update(id(p.grad) for _, p in self._tracked.parameters())
        for name, value in variables():
            if isinstance(value, torch.Tensor):
                held: dict[str, Any] = {name: value}
            elif isinstance(value, (nn.Module, torch.optim.Optimizer)) or id(value) in covered(self._tracked):
                continue
            else:
                held = dict(_tensors_in(name, value))
            for path, tensor in held.items():
                if id(tensor) not in own and not tensor.requires_grad and not tensor.is_inference():
                    yield path, (value, tensor, tensor._version)

    def _warn(self) -> None:
        for path, (holder, tensor, version) in self._loose():
            before = self._tensors.get(path)
            if self._on_warning is None or before is None or before[0] is not holder:
                continue
            if before[1] is not tensor or before[2] != version:
                self._on_warning(
                    f"{path}, a tensor that is not tracked, changes from step to step in the loop at {self._line}: if training depends on "
                    f"it, keep it in a module's buffer, or in an object with state_dict and load_state_dict, that run.track names"
                )


def _things(known: set[int]) -> Iterator[tuple[str, Any]]:
    """Yield what in sight may be state, and is not tracked."""
    for name, value in variables():
        for path, thing in ((name, value), *((f"{name}{k}", v) for k, v in _held(value, known))):
            if id(thing) not in known and _may_be_state(thing):
                yield path, thing


def _held(value: Any, known: set[int]) -> Iterator[tuple[str, Any]]:
    if id(value) not in known and not isinstance(value, (nn.Module, torch.optim.Optimizer, Run, Step)):
        yield from _items(value)


def _is_metric(thing: Any) -> bool:
    return type(thing).__module__.partition(".")[0] in _METRICS


def _may_be_state(thing: Any) -> bool:
    if isinstance(thing, type) or _is_metric(thing):
        return False
    if isinstance(thing, nn.Module) or state_of(thing) is not None:
        return True
    return has_method(thing, "state_dict") and has_method(thing, "load_state_dict")


def _seed(thing: Any) -> int:
    return thing.initial_seed() if isinstance(thing, torch.Generator) else 0


def _tensors_in(name: str, value: Any) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield the tensors that an object's attributes, a list or a dict hold, one level deep and one more into dicts and lists."""
    for key, inner in _items(value):
        if isinstance(inner, torch.Tensor):
            yield f"{name}{key}", inner
        else:
            for second, tensor in _items(inner, attributes=False):
                if isinstance(tensor, torch.Tensor):
                    yield f"{name}{key}{second}", tensor


def _items(value: Any, *, attributes: bool = True) -> Iterator[tuple[str, Any]]:
    return ((name, v) for name, v in _all_items(value, attributes=attributes) if type(v) not in PROXIES)


def _all_items(value: Any, *, attributes: bool) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        yield from ((f"[{k!r}]", v) for k, v in list(dict.items(value))[:_MOST])
    elif isinstance(value, (list, tuple)):
        yield from ((f"[{i}]", v) for i, v in enumerate(value[:_MOST]))
    elif attributes:
        yield from ((f".{k}", v) for k, v in vars_of(value).items())
