"""Logged values: of one sub-task (or mini-batch), and summed over the mini-batches of an evaluation's sub-task."""

from __future__ import annotations

import math
from typing import Any

import torch

from surefoot.errors import ContractError
from surefoot_actors.engine.vector.leaves import Logged, scalar_values
from surefoot_actors.user_code.lines import user_line

__all__ = ["Accumulated", "SubTask", "scalar"]


class SubTask:
    """What the user's code says about the sub-task it computes."""

    __slots__ = ("_gathered", "_lines", "_values", "_weight", "counts", "number")

    def __init__(self, number: int, weight: float = 1.0) -> None:
        self.number = number
        # not so: an evaluation's sub-task without samples of its own, whose weight is 0 whatever the user's code says
        self.counts = weight > 0
        self._values: dict[str, float | torch.Tensor] = {}
        self._lines: dict[str, str] = {}
        self._gathered: dict[str, torch.Tensor] = {}
        self._weight = weight

    def log(self, values: dict[str, Any]) -> None:
        """Take values as they are now. A device's are not waited for until the leaf is made."""
        line = user_line(3)
        for name, value in values.items():
            if name in self._values:
                raise ContractError(
                    f"{name!r} is logged twice in sub-task {self.number}, at {self._lines[name]} and at {line}; "
                    f"add the values up first, or give them different names"
                )
            self._values[name] = scalar(name, value, line)
            self._lines[name] = line

    def gather(self, tensors: dict[str, Any]) -> None:
        """Take a copy of rows on the CPU: a tensor's first dimension counts them; a number is one row. None of a filler sample."""
        line = user_line(3)
        for name, value in tensors.items():
            if name in self._gathered:
                raise ContractError(
                    f"{name!r} is gathered twice in sub-task {self.number}, again at {line}; gather it once"
                )
            self._gathered[name] = _as_rows(name, value, line) if self.counts else _as_rows(name, value, line)[:0]

    def weigh(self, weight: float) -> None:
        """Set the sub-task's weight: finite and at least 0."""
        value = float(weight)
        if not (math.isfinite(value) and value >= 0):
            raise ContractError(f"step.weigh({value}) at {user_line(3)}: a weight is a finite number of at least 0")
        if self.counts:
            self._weight = value

    def logged(self) -> Logged:
        return Logged(self._values, self._lines, self._weight, self._gathered)


class Accumulated:
    """Weighted sums over the mini-batches of one sub-task, in order, in float64."""

    def __init__(self) -> None:
        self.sums: dict[str, float] = {}
        self.lines: dict[str, str] = {}
        self.weight = 0.0
        self._rows: dict[str, list[torch.Tensor]] = {}
        self._num_batches = 0

    def add(self, logged: Logged) -> None:
        """Add a mini-batch. Raises ContractError where it logged other names than the ones before."""
        if self._num_batches and logged.gathered.keys() != self._rows.keys():
            names = ", ".join(sorted(logged.gathered.keys() ^ self._rows.keys()))
            raise ContractError(
                f"some batches of an evaluation gather {names}, others do not; gather the same names for every batch"
            )
        for name, rows in logged.gathered.items():
            self._rows.setdefault(name, []).append(rows)
        if self._num_batches and logged.values.keys() != self.sums.keys():
            differ = sorted(logged.values.keys() ^ self.sums.keys())
            lines = {**self.lines, **logged.lines}
            where = ", ".join(f"{name!r} ({lines[name]})" for name in differ)
            raise ContractError(
                f"some batches of an evaluation log {where}, others do not; log the same names for every batch"
            )
        values = scalar_values(list(logged.values.values()))
        for name, value in zip(logged.values, values, strict=True):
            self.sums[name] = self.sums.get(name, 0.0) + (logged.weight * value if logged.weight else 0.0)
        self.lines = logged.lines
        self.weight += logged.weight
        self._num_batches += 1

    def gathered(self) -> dict[str, torch.Tensor]:
        """Return the rows gathered so far, by name. Raises ContractError where batches gave rows of other shapes or dtypes."""
        for name, pieces in self._rows.items():
            kinds = sorted({f"{str(p.dtype).removeprefix('torch.')}{list(p.shape[1:])}" for p in pieces})
            if len(kinds) > 1:
                raise ContractError(
                    f"step.gather({name}=...) was given rows of {' and of '.join(kinds)} in one evaluation; pad them to one shape"
                )
        return {name: torch.cat(pieces) for name, pieces in self._rows.items()}


def _as_rows(name: str, value: Any, line: str) -> torch.Tensor:
    if not isinstance(value, torch.Tensor):
        try:
            value = torch.as_tensor(value)
        except (TypeError, ValueError, RuntimeError) as error:
            raise ContractError(
                f"step.gather({name}=...) at {line} was given a {type(value).__name__}; gather a tensor, whose first dimension counts "
                f"the samples ({error})"
            ) from None
    rows: torch.Tensor = value.detach().reshape(1) if value.ndim == 0 else value.detach()
    return rows.to("cpu", copy=True, memory_format=torch.contiguous_format).resolve_conj().resolve_neg().contiguous()


def scalar(name: str, value: Any, line: str) -> float | torch.Tensor:
    if isinstance(value, torch.Tensor):
        if value.numel() != 1 or value.is_complex():
            raise ContractError(
                f"step.log({name}=...) at {line} was given a tensor of shape {tuple(value.shape)}; log one real number, "
                f"its mean or sum for example"
            )
        # on a device: a copy, as the tensor may be written before it is read
        return value.item() * 1.0 if value.is_cpu else value.detach().reshape(()).to(torch.float64, copy=True)
    try:
        return float(value)
    except (TypeError, ValueError):
        raise ContractError(
            f"step.log({name}=...) at {line} was given a {type(value).__name__}; log a number"
        ) from None
