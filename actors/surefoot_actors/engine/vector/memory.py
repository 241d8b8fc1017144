"""How a tensor of the state lies in memory, and how one is made, or overwritten, that lies the same.

Kernels give other bits for other strides and alignments, so both are part of the state.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import nn

__all__ = ["ALIGNMENT", "Spec", "flat_bytes", "is_default_stride", "make_like", "memory_of", "realign", "write_into"]

# Torch's own allocations lie at multiples of this many bytes.
ALIGNMENT = 64


class Spec(NamedTuple):
    """What is saved of a tensor besides its content."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    # in elements
    stride: tuple[int, ...]
    # Optimizers keep some state, such as step counts, on the host.
    on_cpu: bool
    requires_grad: bool
    is_parameter: bool
    # the number of the first tensor in the same memory, and how many bytes after its start this one starts; None for the first itself
    shares: tuple[int, int] | None

    @property
    def nbytes(self) -> int:
        return torch.Size(self.shape).numel() * self.dtype.itemsize


def is_default_stride(shape: Sequence[int], stride: Sequence[int]) -> bool:
    """Whether these are exactly the strides of a new tensor of this shape, in dimensions of size 1 too."""
    expected = 1
    for size, own in zip(reversed(shape), reversed(stride), strict=True):
        if own != expected:
            return False
        expected *= max(size, 1)
    return True


def memory_of(flat: torch.Tensor) -> memoryview:
    """Return the bytes of a flat uint8 tensor on the CPU, in place; the view keeps them alive.

    `Tensor.numpy()` would do, but it makes the tensor's memory one that can never be resized again, and this may be the user's tensor.
    """
    if not flat.numel():
        return memoryview(b"")
    array = (ctypes.c_char * flat.numel()).from_address(flat.data_ptr())
    array.tensor = flat  # type: ignore[attr-defined]
    return memoryview(array).cast("B")


def write_into(tensor: torch.Tensor, value: torch.Tensor) -> None:
    """Overwrite a tensor, also one that `expand` made, whose elements lie in the same memory."""
    if 0 in tensor.stride():
        for dim, stride in enumerate(tensor.stride()):
            if stride == 0 and tensor.shape[dim] > 1:
                tensor, value = tensor.narrow(dim, 0, 1), value.narrow(dim, 0, 1)
    tensor.copy_(value)


def make_like(spec: Spec, device: torch.device, first: torch.Tensor | None) -> torch.Tensor:
    """Return a new tensor, contents undefined, that lies in memory as the spec says.

    `first`: the tensor whose memory it is to share; where that has no room for it, the new tensor has memory of its own.
    """
    made = _within(spec, first) if first is not None and spec.shares is not None else None
    if made is None:
        made = torch.empty_strided(spec.shape, spec.stride, dtype=spec.dtype, device=device)
    if spec.is_parameter:
        return nn.Parameter(made, requires_grad=spec.requires_grad)
    return made.requires_grad_() if spec.requires_grad else made


def _within(spec: Spec, first: torch.Tensor) -> torch.Tensor | None:
    assert spec.shares is not None
    start, itemsize = first.storage_offset() * first.itemsize + spec.shares[1], spec.dtype.itemsize
    reach = sum((size - 1) * stride for size, stride in zip(spec.shape, spec.stride, strict=True)) + 1
    memory = first.untyped_storage()
    if 0 in spec.shape or start < 0 or start % itemsize or start + reach * itemsize > memory.nbytes():
        return None
    empty = torch.empty(0, dtype=spec.dtype, device=first.device)
    return empty.set_(memory, start // itemsize, spec.shape, spec.stride)


def realign(tensor: torch.Tensor) -> bool:
    """Move a tensor that lies in memory of another library (numpy's, say), at an address that differs from process to process.

    Returns whether it was moved, with its strides. A view into aligned memory stays: its address is the same everywhere.
    """
    if tensor.device.type != "cpu" or not tensor.numel() or tensor.untyped_storage().data_ptr() % ALIGNMENT == 0:
        return False
    moved = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype)
    write_into(moved, tensor.detach())
    tensor.data = moved
    return True


def flat_bytes(tensor: torch.Tensor) -> torch.Tensor:
    """Return the tensor's bytes in row-major order: flat uint8 on the CPU, aliasing it where it lies so already."""
    if tensor.is_conj() or tensor.is_neg():
        tensor = tensor.resolve_conj().resolve_neg()
    flat = tensor.detach().cpu().contiguous().view(-1)
    # one element may have any stride and counts as contiguous
    return (flat if flat.stride(0) == 1 else flat.as_strided(flat.shape, (1,))).view(torch.uint8)
