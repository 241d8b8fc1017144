"""The engine's values: layouts, nodes of the merge tree, merged vectors, state images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import torch

from surefoot_actors.protocol.tree import Range

__all__ = ["Bucket", "Gathered", "Layout", "Merged", "Node", "Position", "Range", "StateImage", "StateTable"]


class Position(NamedTuple):
    """Where training is. `round` counts every round since the start of the job; step and phase name it for people."""

    round: int
    step: int
    phase: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Bucket:
    """A flat piece of the vector: cut by parameter order and accumulation dtype, independent of the trainers."""

    # fp32 for fp32, bf16 and fp16 gradients; fp64 for fp64
    dtype: torch.dtype
    numel: int
    # slices and digests are in whole chunks; the last may be shorter
    chunk_numel: int

    @property
    def num_chunks(self) -> int:
        return -(-self.numel // self.chunk_numel)


class Gathered(NamedTuple):
    """Rows that sub-tasks gather under a name: their dtype, and the shape of one."""

    name: str
    dtype: torch.dtype
    row_shape: tuple[int, ...]

    @property
    def row_bytes(self) -> int:
        return torch.Size(self.row_shape).numel() * self.dtype.itemsize


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """What a leaf of a round looks like. Equal on every trainer of a round, or the code breaks the contract."""

    buckets: tuple[Bucket, ...]
    # one presence bit a tracked parameter, then one a merged float buffer
    num_presence: int
    # logged names, sorted
    scalars: tuple[str, ...]
    # bytes of written integer and bool buffers, carried whole: equal in every sub-task
    exact_bytes: int
    # what is gathered, by name, sorted
    gathers: tuple[Gathered, ...]
    # human-readable lines, compared to name a difference: "grad net.weight float32[10, 64]", "log loss at train.py:12", ...
    description: tuple[str, ...]
    # 16 bytes: hash of everything above
    signature: bytes


@dataclass(slots=True, kw_only=True)
class Node:
    """The sum of the leaves [range.lo, range.hi), folded in tree order. Not modified once made, but by the fold that consumes it."""

    range: Range
    layout: Layout
    # flat contiguous tensors, one a bucket: sums of weight * value
    buckets: list[torch.Tensor]
    # float64: sum of the sub-tasks' weights, in tree order
    weight: float
    # float64: sums of weight * scalar, in tree order, one a name
    scalars: tuple[float, ...]
    # bit i: parameter (or buffer) i was present in some sub-task
    presence: int
    exact: bytes
    # one a name of `layout.gathers`: the rows of these sub-tasks, in order, on the CPU
    gathered: tuple[torch.Tensor, ...] = ()


@dataclass(slots=True, kw_only=True)
class Merged:
    """One round's merge: the weighted mean over all sub-tasks. A private copy: never aliased by `.grad` (R6)."""

    round: int
    layout: Layout
    # flat contiguous tensors, one a bucket: means
    buckets: list[torch.Tensor]
    weight: float
    scalars: Mapping[str, float]
    presence: int
    exact: bytes
    # all rows that were gathered, by name: in the order of the sub-tasks, on the CPU
    gathered: Mapping[str, torch.Tensor] = field(default_factory=dict)
    # 16 bytes: hash, in order, of the chunk digests of every bucket, then of scalars, weight, presence, exact and gathered rows
    digest: bytes


@dataclass(slots=True, kw_only=True)
class StateImage:
    """The tracked state, bit for bit, as it travels between trainers or to a checkpoint."""

    # pickled skeleton: names, tree of Python values, tensor specs. Only ever unpickled in trainers.
    skeleton: bytes
    # flat uint8 views or copies on the CPU, in the skeleton's order
    tensors: list[torch.Tensor] = field(default_factory=list)
    # (name, 16 bytes) of every tensor, and of every object's plain values; empty where it was read from files
    digests: tuple[tuple[str, bytes], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class StateTable:
    """Digests of one stripe of the tracked state, by name: to tell where trainers differ. Plain values are all there."""

    digests: dict[str, bytes]
    # of buffers, which sub-tasks that were computed meanwhile may have written
    buffers: dict[str, bytes]
