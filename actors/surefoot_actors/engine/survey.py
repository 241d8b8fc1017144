"""What a tracked object's state consists of: tensors, by name, and plain values, as one tree; and how it is put back."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

import torch
from torch import nn

from surefoot.errors import ContractError

__all__ = ["Entry", "Survey", "TrackedModule", "TrackedObject", "TrackedOptimizer", "TrackedOther"]

# A tensor's place in a tree of plain values is the tuple (_TENSOR, number): exact builtin types, so that trees marshal.
_TENSOR = "\0tensor"

TensorOf = Callable[[int, torch.Tensor | None], torch.Tensor]
"""Returns a saved tensor by number; given a tensor of its shape and dtype, overwrites and returns that one."""


class Saved(Protocol):
    """A saved state's tensors."""

    @property
    def specs(self) -> list[tuple[str, torch.dtype, tuple[int, ...], bool]]:
        """Name, dtype, shape, and whether it lay on the CPU; by number."""

    def tensor(self, number: int, into: torch.Tensor | None) -> torch.Tensor: ...


class Entry(NamedTuple):
    name: str
    tensor: torch.Tensor


class Survey:
    """Tensors in a fixed order, each once however often it is used, and a tree of plain values an object."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self.objects: dict[str, Any] = {}
        self._numbers: dict[int, int] = {}

    def number(self, name: str, tensor: torch.Tensor) -> int:
        """Return the tensor's number, new or known."""
        number = self._numbers.get(id(tensor))
        if number is None:
            number = self._numbers[id(tensor)] = len(self.entries)
            self.entries.append(Entry(name, tensor))
        return number

    def tree(self, name: str, value: Any) -> Any:
        """Return `value` with the tensors in dicts, lists and tuples replaced by their numbers."""
        if isinstance(value, torch.Tensor):
            return (_TENSOR, self.number(name, value))
        if isinstance(value, (dict, OrderedDict)) and type(value) in (dict, OrderedDict):
            return type(value)((k, self.tree(f"{name}.{k}", v)) for k, v in value.items())
        if type(value) in (list, tuple):
            return type(value)(self.tree(f"{name}.{i}", v) for i, v in enumerate(value))
        return value


def _untree(value: Any, tensor: TensorOf, into: Any = None) -> Any:
    """Undo `Survey.tree`, writing tensors into those that `into` has at the same place where they fit."""
    if type(value) is tuple and len(value) == 2 and value[0] == _TENSOR:
        return tensor(value[1], into if isinstance(into, torch.Tensor) else None)
    if type(value) in (dict, OrderedDict):
        old = into if isinstance(into, Mapping) else {}
        return type(value)((k, _untree(v, tensor, old.get(k))) for k, v in value.items())
    if type(value) in (list, tuple):
        return type(value)(_untree(v, tensor) for v in value)
    return value


class TrackedObject(Protocol):
    name: str
    # restored in ascending order
    order: int

    def survey(self, survey: Survey) -> None:
        """Add this object's tensors and tree."""

    def check(self, tree: Any, saved: Saved) -> None:
        """Raise ContractError where the state cannot be restored here, naming what differs. Changes nothing."""

    def restore(self, tree: Any, tensor: TensorOf) -> None:
        """Overwrite the state. Raises ContractError naming what is of another shape."""


class TrackedModule:
    """Parameters, all buffers (non-persistent too), training and requires_grad flags."""

    order = 0

    def __init__(self, name: str, module: nn.Module) -> None:
        self.name = name
        self._parts = list(module.modules())
        self._parameters = list(module.named_parameters(prefix=name))
        self._buffers = [(f"{path}.", part._buffers) for path, part in module.named_modules(prefix=name)]

    def survey(self, survey: Survey) -> None:
        number = survey.number
        survey.objects[self.name] = (
            [(name, number(name, p), p.requires_grad) for name, p in self._parameters],
            [
                (prefix + key, None if b is None else number(prefix + key, b))
                for prefix, buffers in self._buffers
                for key, b in buffers.items()
            ],
            [part.training for part in self._parts],
        )

    def check(self, tree: Any, saved: Saved) -> None:
        parameters, buffers, _ = tree
        here = {prefix + key: owner[key] for prefix, owner in self._buffers for key in owner}
        _same_names(self.name, [n for n, _, _ in parameters], [n for n, _ in self._parameters])
        _same_names(self.name, [n for n, _ in buffers], list(here))
        for (name, number, _), (_, parameter) in zip(parameters, self._parameters, strict=True):
            _same_shape(name, parameter, saved.specs[number])
        for name, number in buffers:
            own = here[name]
            if number is not None and own is not None:
                _same_shape(name, own, saved.specs[number])

    def restore(self, tree: Any, tensor: TensorOf) -> None:
        parameters, buffers, training = tree
        _same_names(self.name, [n for n, _, _ in parameters], [n for n, _ in self._parameters])
        for (name, number, requires_grad), (_, parameter) in zip(parameters, self._parameters, strict=True):
            _overwrite(name, parameter, number, tensor)
            parameter.requires_grad_(requires_grad)
        here = {prefix + key: (owner, key) for prefix, owner in self._buffers for key in owner}
        _same_names(self.name, [n for n, _ in buffers], list(here))
        for name, number in buffers:
            owner, key = here[name]
            if number is None or owner[key] is None:
                owner[key] = None if number is None else tensor(number, None)
            else:
                _overwrite(name, owner[key], number, tensor)
        for part, flag in zip(self._parts, training, strict=True):
            part.training = flag


class TrackedOptimizer:
    """State and hyperparameters exactly as they are: `load_state_dict` would cast fp32 state of bf16 parameters to bf16."""

    order = 1

    def __init__(self, name: str, optimizer: torch.optim.Optimizer, parameter_names: dict[int, str]) -> None:
        self.name = name
        self._optimizer = optimizer
        self._parameter_names = parameter_names

    def _parameters(self) -> list[torch.Tensor]:
        return [p for group in self._optimizer.param_groups for p in group["params"]]

    def survey(self, survey: Survey) -> None:
        name, state = self.name, self._optimizer.state
        parameters: list[tuple[str, torch.Tensor, int]] = []
        groups = []
        for g, group in enumerate(self._optimizer.param_groups):
            at = len(parameters)
            for i, p in enumerate(group["params"]):
                own = self._parameter_names.get(id(p)) or f"{name}.param_groups.{g}.params.{i}"
                parameters.append((own, p, survey.number(own, p)))
            settings = {k: survey.tree(f"{name}.param_groups.{g}.{k}", v) for k, v in group.items() if k != "params"}
            groups.append((at, len(parameters), settings))
        states = []
        known = 0
        for i, (own, p, _) in enumerate(parameters):
            if p in state:
                known += 1
                states.append((i, survey.tree(f"{name}.state.{own}", state[p])))
        rest = {}
        if known != len(state):
            mine = {id(p) for _, p, _ in parameters}
            rest = {k: survey.tree(f"{name}.state.{k}", v) for k, v in state.items() if id(k) not in mine}
        survey.objects[name] = ([(n, i) for n, _, i in parameters], groups, states, rest)

    def check(self, tree: Any, saved: Saved) -> None:
        parameters, groups, _, _ = tree
        self._check_groups(groups)
        for (name, number), parameter in zip(parameters, self._parameters(), strict=True):
            _same_shape(name, parameter, saved.specs[number])
        for own, (_, _, settings) in zip(self._optimizer.param_groups, groups, strict=True):
            lacking = sorted(own.keys() - settings.keys() - {"params"})
            if lacking:
                raise ContractError(
                    f"{self.name} has the settings {', '.join(lacking)} here, which the saved one has not: it is another optimizer"
                )

    def _check_groups(self, groups: Any) -> None:
        sizes = [len(g["params"]) for g in self._optimizer.param_groups]
        theirs = [stop - start for start, stop, _ in groups]
        if sizes != theirs:
            raise ContractError(
                f"{self.name} has parameter groups of {sizes} parameters here, of {theirs} in the run's state"
            )

    def restore(self, tree: Any, tensor: TensorOf) -> None:
        parameters, groups, states, rest = tree
        self._check_groups(groups)
        mine = self._optimizer.param_groups
        own = self._parameters()
        for (name, number), parameter in zip(parameters, own, strict=True):
            _overwrite(name, parameter, number, tensor)
        for group, (_, _, settings) in zip(mine, groups, strict=True):
            old = dict(group)
            group.clear()
            group["params"] = old["params"]
            group.update({k: _untree(v, tensor, old.get(k)) for k, v in settings.items()})
        state = self._optimizer.state
        before = dict(state)
        state.clear()
        for i, saved in states:
            state[own[i]] = _untree(saved, tensor, before.get(own[i]))
        for key, saved in rest.items():
            state[key] = _untree(saved, tensor, before.get(key))


class TrackedOther:
    """Whatever has state_dict and load_state_dict: schedulers, GradScaler, averages."""

    order = 2

    def __init__(self, name: str, thing: Any) -> None:
        self.name = name
        self._thing = thing

    def survey(self, survey: Survey) -> None:
        survey.objects[self.name] = survey.tree(self.name, self._thing.state_dict())

    def check(self, tree: Any, saved: Saved) -> None:
        before = copy.deepcopy(self._thing.state_dict())
        try:
            self._thing.load_state_dict(_untree(tree, saved.tensor))
        except Exception as error:  # the edge to the user's object: only it knows what it can load
            raise ContractError(f"{self.name} does not load what was saved of it: {error!r}") from error
        finally:
            self._thing.load_state_dict(before)

    def restore(self, tree: Any, tensor: TensorOf) -> None:
        self._thing.load_state_dict(_untree(tree, tensor))


def _overwrite(name: str, own: torch.Tensor, number: int, tensor: TensorOf) -> None:
    saved = tensor(number, own)
    if saved is not own:
        raise ContractError(
            f"{name} is {own.dtype} {tuple(own.shape)} here, {saved.dtype} {tuple(saved.shape)} in the run's state; "
            f"the code before run.steps() must build the same objects on every trainer"
        )


def _same_shape(name: str, own: torch.Tensor, saved: tuple[str, torch.dtype, tuple[int, ...], bool]) -> None:
    _, dtype, shape, _ = saved
    if (own.dtype, tuple(own.shape)) != (dtype, shape):
        raise ContractError(f"{name} is {own.dtype} {tuple(own.shape)} here, {dtype} {shape} in the saved state")


def _same_names(what: str, saved: list[str], own: list[str]) -> None:
    if saved != own:
        differ = sorted(set(saved) ^ set(own))[:4] or "their order"
        raise ContractError(f"{what} has other parameters or buffers here than in the run's state: {differ}")
