"""Modules whose buffers are no plain statistics: counters of batches, and what observes for quantization."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from functools import lru_cache

import torch
from torch import nn

from surefoot_actors.engine.vector.exact_buffers import Rule

__all__ = ["derive", "fit", "may_grow", "merge_rule"]

# Known by name: importing torch.ao takes a second, and who uses it has imported it.
_QUANTIZATION = "torch.ao.quantization"
_EXTREMES = frozenset(("MinMaxObserver", "PerChannelMinMaxObserver"))
_AVERAGES = frozenset(("MovingAverageMinMaxObserver", "MovingAveragePerChannelMinMaxObserver"))
_SIDES = {"min_val": Rule.SMALLEST, "max_val": Rule.LARGEST}


def merge_rule(module: nn.Module, key: str, tensor: torch.Tensor) -> Rule:
    """Return how this buffer's values of several sub-tasks become what one process would have."""
    kinds = _quantization_kinds(module)
    if "FakeQuantizeBase" in kinds and key in ("scale", "zero_point") and _observer(module) is not None:
        return Rule.DERIVED
    if kinds & _EXTREMES and not kinds & _AVERAGES and key in _SIDES:
        return _SIDES[key]
    if tensor.is_floating_point() or tensor.is_complex():
        return Rule.MEAN
    # a BatchNorm counts its batches; a step is one of them, for those that took part in it
    return Rule.LARGEST if key == "num_batches_tracked" else Rule.EQUAL


def may_grow(module: nn.Module, key: str) -> bool:
    """Whether this buffer has another shape once something was observed: one value a channel, where there was one or none."""
    kinds = _quantization_kinds(module)
    return ("FakeQuantizeBase" in kinds and key in ("scale", "zero_point")) or (
        "ObserverBase" in kinds and key in _SIDES
    )


def fit(tensor: torch.Tensor, shape: Sequence[int]) -> None:
    """Give a buffer that may grow another shape, in place, as observers do."""
    if tensor.shape != torch.Size(shape):
        tensor.resize_(torch.Size(shape))


def derive(merged: Collection[int], modules: Iterable[nn.Module]) -> None:
    """Compute scale and zero point of quantization whose observer's buffers were merged. `merged`: ids of dicts of buffers."""
    for module in modules:
        observer = _observer(module) if "FakeQuantizeBase" in _quantization_kinds(module) else None
        if observer is not None and id(observer._buffers) in merged:
            scale, zero_point = module.calculate_qparams()  # type: ignore[operator]
            for key, value in (("scale", scale), ("zero_point", zero_point)):
                tensor = module._buffers[key]
                assert tensor is not None
                fit(tensor, value.shape)
                tensor.copy_(value)


def _observer(module: nn.Module) -> nn.Module | None:
    observer = module._modules.get("activation_post_process")
    return observer if observer is not None and callable(getattr(observer, "calculate_qparams", None)) else None


def _quantization_kinds(module: nn.Module) -> frozenset[str]:
    return _kinds_of(type(module))  # type: ignore[arg-type]  # mypy takes `type` for unhashable


@lru_cache(maxsize=4096)
def _kinds_of(cls: type[object]) -> frozenset[str]:
    return frozenset(kind.__name__ for kind in cls.__mro__ if kind.__module__.startswith(_QUANTIZATION))
