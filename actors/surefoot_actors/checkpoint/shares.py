"""Which trainer saves which bytes of the state: a pure function of its tensors, so that all agree without a word."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch

from surefoot_actors.engine.vector.end_to_end import offsets

__all__ = ["CUT_BYTES", "Part", "TensorSpec", "keys", "parts_of"]

# Smaller tensors are never cut.
CUT_BYTES = 1 << 20


class TensorSpec(NamedTuple):
    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        return torch.Size(self.shape).numel() * self.dtype.itemsize


class Part(NamedTuple):
    """A tensor, by its number, or the rows [start, stop) along dim 0 of one that is cut."""

    number: int
    rows: tuple[int, int] | None
    nbytes: int


def parts_of(specs: Sequence[TensorSpec], share: int, of: int) -> list[Part]:
    """Return what share `share` of `of` holds: a contiguous run of the tensors laid end to end, of about equal size for each.

    Every tensor is in one share, or the rows of one that is cut are, each once: for any specs, empty ones too.
    """
    begins = offsets([spec.nbytes for spec in specs])
    total = begins[-1]
    low, high = total * share // of, total * (share + 1) // of
    last = share == of - 1
    parts = []
    for number, (spec, at) in enumerate(zip(specs, begins, strict=False)):
        size = spec.nbytes
        rows = spec.shape[0] if size >= CUT_BYTES and spec.shape and spec.shape[0] > 1 else 1
        start = _units(low - at, size, rows)
        stop = rows if last else _units(high - at, size, rows)
        if start < stop:
            parts.append(Part(number, (start, stop) if stop - start < rows else None, size * (stop - start) // rows))
    return parts


def _units(offset: int, size: int, rows: int) -> int:
    """Return how many of a tensor's rows, of one that is not cut all or none, lie before a boundary `offset` bytes into it."""
    if offset <= 0:
        return 0
    if offset > size or not size:
        return rows
    return (2 * offset * rows + size) // (2 * size)


def keys(specs: Sequence[TensorSpec]) -> list[str]:
    """Return the tensors' keys in files: their names, made distinct."""
    taken = {"__metadata__"}
    found = []
    for number, spec in enumerate(specs):
        key = spec.name if spec.name not in taken else f"{spec.name}#{number}"
        while key in taken:
            key += "#"
        taken.add(key)
        found.append(key)
    return found
