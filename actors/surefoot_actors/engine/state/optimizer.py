"""A tracked optimizer: state and hyperparameters exactly as they are, and its parameter groups, also those added while training."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch

from surefoot.errors import ContractError
from surefoot_actors.engine.state.module import check_shape, overwrite
from surefoot_actors.engine.state.survey import Saved, Survey, TensorOf, untree

__all__ = ["TrackedOptimizer", "inner_optimizers"]


class TrackedOptimizer:
    """One optimizer. `load_state_dict` is not enough: it would cast fp32 state of bf16 parameters to bf16."""

    def __init__(
        self, name: str, optimizer: torch.optim.Optimizer, parameters: Mapping[str, torch.Tensor], *, order: int = 1
    ) -> None:
        """`parameters`: all that are tracked, by name."""
        self.name, self.order = name, order
        _check_reproducible(name, optimizer)
        self._optimizer = optimizer
        self._by_name = parameters
        self._names = {id(p): n for n, p in parameters.items()}
        # one that tells its state in a way of its own, with values that are not in `state` and `param_groups`
        self._tells_more = type(optimizer).state_dict is not torch.optim.Optimizer.state_dict

    def _parameters(self) -> list[torch.Tensor]:
        return [p for group in self._optimizer.param_groups for p in group["params"]]

    def strangers(self) -> list[tuple[int, torch.Tensor]]:
        """Return parameters that are not tracked, each with the number of its group."""
        names = self._names
        return [
            (g, p)
            for g, group in enumerate(self._optimizer.param_groups)
            for p in group["params"]
            if id(p) not in names
        ]

    def num_parameters(self) -> int:
        return sum([len(group["params"]) for group in self._optimizer.param_groups])

    def survey(self, survey: Survey) -> None:
        name, state = self.name, self._optimizer.state
        parameters: list[tuple[str, torch.Tensor, int]] = []
        groups = []
        for g, group in enumerate(self._optimizer.param_groups):
            at = len(parameters)
            for i, p in enumerate(group["params"]):
                own = self._names.get(id(p)) or f"{name}.param_groups.{g}.params.{i}"
                parameters.append((own, p, survey.number(own, p)))
            settings = {
                k: None if k == "params" else survey.tree(f"{name}.param_groups.{g}.{k}", v) for k, v in group.items()
            }
            groups.append((at, len(parameters), settings))
        # in the state's own order: that in which parameters first had gradients, and in which code that goes through it will
        place = {id(p): i for i, (_, p, _) in enumerate(parameters)}
        states: list[tuple[int | None, Any, Any]] = []
        for key, value in state.items():
            number = place.get(id(key))
            label = key if number is None else parameters[number][0]
            states.append((number, key if number is None else None, survey.tree(f"{name}.state.{label}", value)))
        more = self._optimizer.state_dict() if self._tells_more else None
        told = survey.tree(f"{name}.state_dict", more, by_place=True)
        survey.objects[name] = ([(n, i) for n, _, i in parameters], groups, states, told)

    def check(self, tree: Any, saved: Saved) -> None:
        parameters, groups, _, _ = tree
        for (name, number), parameter in zip(parameters, self._found(parameters), strict=True):
            check_shape(name, parameter, saved.specs[number])
        for own, (_, _, settings) in zip(self._optimizer.param_groups, groups, strict=False):
            lacking = sorted(own.keys() - settings.keys() - {"params"})
            if lacking:
                raise ContractError(
                    f"{self.name} has the settings {', '.join(lacking)} here, which the saved one has not: it is another optimizer"
                )

    def _found(self, parameters: list[tuple[str, int]]) -> list[torch.Tensor]:
        """Return the parameters that the saved groups have, by name. Raises ContractError where one is not here."""
        lacking = [name for name, _ in parameters if name not in self._by_name]
        if lacking:
            here = [len(g["params"]) for g in self._optimizer.param_groups]
            raise ContractError(
                f"{self.name} has parameter groups of {here} parameters here; the saved one has {', '.join(lacking[:4])} besides, "
                f"which no tracked object here has"
            )
        return [self._by_name[name] for name, _ in parameters]

    def hold(self) -> None:
        """Remember which objects its groups and its state are, as others may hold them too: a wrapper, a scheduler."""
        optimizer = self._optimizer
        self._held = optimizer.param_groups, list(optimizer.param_groups), optimizer.state

    def _put_back(self) -> None:
        """Have the same objects for groups and state as before something's load_state_dict has made new ones."""
        groups, dicts, state = self._held
        groups[:] = dicts
        self._optimizer.param_groups, self._optimizer.state = groups, state

    def restore(self, tree: Any, tensor: TensorOf) -> None:
        parameters, groups, states, told = tree
        own = self._found(parameters)
        for (name, number), parameter in zip(parameters, own, strict=True):
            overwrite(name, parameter, number, tensor)
        self._put_back()
        self._shape_groups([own[start:stop] for start, stop, _ in groups])
        if told is not None:
            self.hold()
            self._optimizer.load_state_dict(untree(told, tensor))
            self._put_back()
        for group, (start, stop, settings) in zip(self._optimizer.param_groups, groups, strict=True):
            old = dict(group)
            group.clear()
            for key, saved in settings.items():
                group[key] = own[start:stop] if key == "params" else untree(saved, tensor, old.get(key))
        state = self._optimizer.state
        before = dict(state)
        state.clear()
        for i, other, saved in states:
            key = other if i is None else own[i]
            state[key] = untree(saved, tensor, before.get(key))

    def _shape_groups(self, wanted: list[list[torch.Tensor]]) -> None:
        """Make the parameter groups those of the saved optimizer, which may have been added or split while training."""
        mine = self._optimizer.param_groups
        if [[id(p) for p in group["params"]] for group in mine] == [[id(p) for p in group] for group in wanted]:
            return
        del mine[len(wanted) :]
        for group, parameters in zip(mine, wanted, strict=False):
            group["params"] = parameters
        for parameters in wanted[len(mine) :]:
            self._optimizer.add_param_group({"params": parameters})


def _check_reproducible(name: str, optimizer: torch.optim.Optimizer) -> None:
    """Raise ContractError for what torch 2.13 computes otherwise each time, whatever its determinism flags say (measured)."""
    if not isinstance(optimizer, torch.optim.SGD):
        return
    for group in optimizer.param_groups:
        halves = [p for p in group["params"] if p.dtype in (torch.bfloat16, torch.float16) and p.device.type == "cpu"]
        if group.get("fused") and group.get("momentum") and halves:
            raise ContractError(
                f"{name} is a fused SGD with momentum on parameters of {halves[0].dtype}, which on the CPU gives other bits each time, "
                f"even for the same step twice; leave fused=True out"
            )


def inner_optimizers(name: str, thing: Any) -> Iterator[tuple[str, torch.optim.Optimizer]]:
    """Yield the optimizers that an object holds, as wrappers (Lookahead, SAM, accelerators) do, with a name of their own."""
    for key, value in getattr(thing, "__dict__", {}).items():
        if isinstance(value, torch.optim.Optimizer):
            yield f"{name}.{key}", value
        elif type(value) in (list, tuple):
            yield from ((f"{name}.{key}.{i}", v) for i, v in enumerate(value) if isinstance(v, torch.optim.Optimizer))
        elif type(value) is dict:
            yield from ((f"{name}.{key}.{k}", v) for k, v in value.items() if isinstance(v, torch.optim.Optimizer))
