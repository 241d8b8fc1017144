"""Numbers gone bad: parameters that are not finite are an error, gradients that are not are worth a word."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch

from surefoot.errors import ContractError
from surefoot_actors.engine.types import Merged

__all__ = ["FiniteCheck"]

# What is looked at of a parameter in a step.
_PIECE_NUMEL = 1 << 18


class FiniteCheck:
    """Looks at a piece of one parameter a step, in turn, and at every merge.

    One piece is enough: a NaN anywhere in the parameters is in all of them a step or two later.
    """

    def __init__(self, on_warning: Callable[[str], None] | None) -> None:
        self._on_warning = on_warning
        self._num_bad = 0

    @torch.no_grad()
    def check_state(self, parameters: Sequence[tuple[str, torch.Tensor]], step: int) -> None:
        """Raise ContractError when this step's piece holds NaN or infinity."""
        if not parameters:
            return
        turn, number = divmod(step, len(parameters))
        name, parameter = parameters[number]
        flat = parameter.detach().reshape(-1)
        at = turn % max(1, -(-flat.numel() // _PIECE_NUMEL)) * _PIECE_NUMEL
        if parameter.requires_grad and not _finite(flat[at : at + _PIECE_NUMEL]):
            raise ContractError(
                f"{name} is not finite after step {step}: training has diverged, and every later step would be lost; "
                f"lower the learning rate, clip gradients, or skip steps whose gradients are not finite (GradScaler does)"
            )

    def check_merge(self, merged: Merged, step: int) -> None:
        """Tell of gradients that are not finite: the first time, then ever more rarely."""
        if self._on_warning is None or all(_finite(flat) for flat in merged.buckets):
            return
        self._num_bad += 1
        if self._num_bad & (self._num_bad - 1) == 0:
            times = "" if self._num_bad == 1 else f", for the {self._num_bad}th time"
            self._on_warning(f"the merged gradients of step {step} are not finite{times}")


def _finite(flat: torch.Tensor) -> bool:
    # A sum is one cheap pass that any NaN or infinity survives; only a sum that overflows needs the second look.
    total = flat.sum().item()
    return math.isfinite(abs(total)) or bool(flat.isfinite().all())
