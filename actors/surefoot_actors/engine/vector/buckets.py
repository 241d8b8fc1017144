"""Buckets: how parameters and buffers are cut into a few flat vectors, whoever computes them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch

__all__ = ["Part", "cut_buckets"]

# A bucket is closed before it would grow beyond this; a larger parameter has one of its own.
_BUCKET_NUMEL = 16 * 1024 * 1024


_DOUBLE = (torch.float64, torch.complex128)


class Part(NamedTuple):
    """One tensor's place in the vector: parts of a bucket lie in order, without gaps."""

    name: str
    dtype: torch.dtype
    # of real numbers: a complex tensor has one more dimension of size 2
    shape: tuple[int, ...]


def cut_buckets(parts: Sequence[Part]) -> list[list[int]]:
    """Return the parts' numbers by bucket, in order: cut by accumulation dtype and size, so the same on every trainer."""
    buckets: list[list[int]] = []
    current: dict[torch.dtype, int] = {}
    sizes: list[int] = []
    for i, part in enumerate(parts):
        dtype, numel = accumulation_dtype(part.dtype), _numel(part.shape)
        at = current.get(dtype)
        if at is None or sizes[at] + numel > _BUCKET_NUMEL:
            at = current[dtype] = len(buckets)
            buckets.append([])
            sizes.append(0)
        buckets[at].append(i)
        sizes[at] += numel
    return buckets


def accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype that gradients of `dtype` are summed in: float64 for double, else float32."""
    return torch.float64 if dtype in _DOUBLE else torch.float32


def _part(name: str, tensor: torch.Tensor) -> Part:
    shape = (*tensor.shape, 2) if tensor.is_complex() else tuple(tensor.shape)
    return Part(name, tensor.dtype, shape)


def _numel(shape: tuple[int, ...]) -> int:
    return torch.Size(shape).numel()
