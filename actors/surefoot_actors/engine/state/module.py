"""A tracked module: parameters, all buffers (non-persistent too), extra state, training and requires_grad flags, and its structure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from surefoot.errors import ContractError
from surefoot_actors.engine.state.survey import Saved, Survey, TensorOf, untree
from surefoot_actors.engine.vector.memory import Spec, realign
from surefoot_actors.engine.vector.observers import fit, may_grow

__all__ = ["TrackedModule", "check_shape", "check_tensor", "overwrite"]

_EXTRA = "_extra_state"


class TrackedModule:
    """One module that `run.track` was given."""

    order = 0

    def __init__(self, name: str, module: nn.Module) -> None:
        self.name = name
        self._module = module
        for path, tensor in _tensors(name, module):
            check_tensor(path, tensor)
            realign(tensor)
        self.settle()

    def settle(self) -> None:
        """Take the structure as it is now for the module's own from here on."""
        module, name = self._module, self.name
        named = list(module.named_modules(prefix=name))
        self._parts = [part for _, part in named]
        self._parameters = list(module.named_parameters(prefix=name))
        self._buffers = [(f"{path}.", part._buffers) for path, part in named]
        self._growing = {
            f"{path}.{key}" for path, part in named for key, _ in part._buffers.items() if may_grow(part, key)
        }
        self._structure = _structure(self._parts)
        self._extra = [(f"{path}.{_EXTRA}", part) for path, part in named if _has_extra_state(part)]
        self._keeps_more = any(_keeps_more(part) for part in self._parts)

    def _registered(self) -> Iterator[tuple[str, Any, str]]:
        """Yield every buffer's name, the dict it is in, and its key there. A scripted module's dict has little more than `items`."""
        for prefix, owner in self._buffers:
            for key, _ in owner.items():
                yield prefix + key, owner, key

    def structure_change(self) -> str:
        """Return how parameters, buffers or parts differ from those that were there when it settled; empty: they do not."""
        if _structure(self._parts) == self._structure:
            return ""
        before = {name for name, _ in self._parameters} | {name for name, _, _ in self._registered()}
        module, name = self._module, self.name
        now = {path for path, _ in module.named_parameters(prefix=name)}
        now |= {f"{path}.{key}" for path, part in module.named_modules(prefix=name) for key, _ in part._buffers.items()}
        gone, new = sorted(before - now), sorted(now - before)
        if not gone and not new:
            return f"{name} has other tensors or parts under the same names"
        told = [f"{_few(names)} {verb}" for names, verb in ((gone, "gone"), (new, "new")) if names]
        return ", ".join(told)

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
            [(path, survey.tree(path, part.get_extra_state(), by_place=True)) for path, part in self._extra],
            survey.tree(f"{self.name}.state_dict", self._more(), by_place=True) if self._keeps_more else None,
        )

    def _more(self) -> dict[str, Any]:
        """Return what a state_dict of the module's own making holds besides parameters, buffers and extra state."""
        known = {n for n, _ in self._module.named_parameters()} | {n for n, _ in self._module.named_buffers()}
        return {
            key: value
            for key, value in self._module.state_dict(keep_vars=True).items()
            if key not in known and not key.endswith(_EXTRA)
        }

    def check(self, tree: Any, saved: Saved) -> None:
        parameters, buffers, _, extra, _ = tree
        here = {name: owner[key] for name, owner, key in self._registered()}
        _same_names(self.name, [n for n, _, _ in parameters], [n for n, _ in self._parameters])
        _same_names(self.name, [n for n, _ in buffers], list(here))
        _same_names(self.name, [path for path, _ in extra], [path for path, _ in self._extra])
        for (name, number, _), (_, parameter) in zip(parameters, self._parameters, strict=True):
            check_shape(name, parameter, saved.specs[number])
        for name, number in buffers:
            own = here[name]
            if number is not None and own is not None and name not in self._growing:
                check_shape(name, own, saved.specs[number])

    def restore(self, tree: Any, tensor: TensorOf) -> None:
        parameters, buffers, training, extra, more = tree
        _same_names(self.name, [n for n, _, _ in parameters], [n for n, _ in self._parameters])
        for (name, number, requires_grad), (_, parameter) in zip(parameters, self._parameters, strict=True):
            overwrite(name, parameter, number, tensor)
            parameter.requires_grad_(requires_grad)
        self._restore_buffers(buffers, tensor)
        for part, flag in zip(self._parts, training, strict=True):
            part.training = flag
        _same_names(self.name, [path for path, _ in extra], [path for path, _ in self._extra])
        for (_, saved), (_, part) in zip(extra, self._extra, strict=True):
            part.set_extra_state(untree(saved, tensor))
        if more:
            self._module.load_state_dict(untree(more, tensor), strict=False)

    def _restore_buffers(self, buffers: list[tuple[str, int | None]], tensor: TensorOf) -> None:
        here = {name: (owner, key) for name, owner, key in self._registered()}
        _same_names(self.name, [n for n, _ in buffers], list(here))
        for name, number in buffers:
            owner, key = here[name]
            if number is None or owner[key] is None:
                owner[key] = None if number is None else tensor(number, None)
            elif name in self._growing:
                saved = tensor(number, None)
                fit(owner[key], saved.shape)
                owner[key].copy_(saved)
            else:
                overwrite(name, owner[key], number, tensor)


def _tensors(name: str, module: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    yield from module.named_parameters(prefix=name)
    yield from module.named_buffers(prefix=name)


def _structure(parts: list[nn.Module]) -> list[int]:
    """Return numbers that differ where the parts hold other parameters or parts, or another number of buffers."""
    found: list[int] = []
    for part in parts:
        modules, parameters = part._modules, part._parameters
        if modules:
            found += map(id, modules.values())
        if parameters:
            found += map(id, parameters.values())
        found.append(len(part._buffers))
    return found


def _has_extra_state(part: nn.Module) -> bool:
    return getattr(type(part), "get_extra_state", None) is not nn.Module.get_extra_state and not _is_script(part)


def _keeps_more(part: nn.Module) -> bool:
    kind = type(part)
    own = kind._save_to_state_dict is not nn.Module._save_to_state_dict or kind.state_dict is not nn.Module.state_dict
    return (own or bool(part._state_dict_hooks)) and not _is_script(part)


def _is_script(part: nn.Module) -> bool:
    return isinstance(part, torch.jit.ScriptModule)


def check_tensor(name: str, tensor: torch.Tensor) -> None:
    """Raise ContractError for a tensor that cannot be part of the state: without memory of its own, sparse, or not to be overwritten."""
    if is_lazy(tensor):
        raise ContractError(
            f"{name} has no shape yet: its lazy module would be initialized by whichever sub-task comes first, which is another one "
            f"on every trainer; call the model once before run.track(), on a batch of zeros of the shape of your data"
        )
    if tensor.is_inference():
        raise ContractError(
            f"{name} was made under torch.inference_mode(), so it can never be trained or overwritten; build the model outside of it"
        )
    if tensor.layout is not torch.strided or tensor.is_quantized or tensor.device.type == "meta":
        kind = "on the meta device" if tensor.device.type == "meta" else f"of layout {tensor.layout}"
        raise ContractError(
            f"{name} is {kind}, which cannot be given to other trainers; make it a dense tensor before run.track()"
        )


def overwrite(name: str, own: torch.Tensor, number: int, tensor: TensorOf) -> None:
    """Put a saved tensor into one that is here. Raises ContractError where it is of another shape or dtype."""
    saved = tensor(number, own)
    if saved is not own:
        raise ContractError(
            f"{name} is {own.dtype} {tuple(own.shape)} here, {saved.dtype} {tuple(saved.shape)} in the run's state; "
            f"the code before run.steps() must build the same objects on every trainer"
        )


def check_shape(name: str, own: torch.Tensor, saved: Spec) -> None:
    """Raise ContractError where a saved tensor is of another shape or dtype than the one here."""
    if (own.dtype, tuple(own.shape)) != (saved.dtype, saved.shape):
        raise ContractError(
            f"{name} is {own.dtype} {tuple(own.shape)} here, {saved.dtype} {saved.shape} in the saved state"
        )


def _same_names(what: str, saved: list[str], own: list[str]) -> None:
    if saved != own:
        differ = sorted(set(saved) ^ set(own))[:4] or "their order"
        raise ContractError(f"{what} has other parameters or buffers here than in the run's state: {differ}")


def _few(names: list[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
