"""The memory that batches are handed out in: the same whoever loaded them.

Kernels give other bits by the alignment and the strides of their operands, and code that changes a batch in place must not change
the dataset. So whatever the user's code put together is copied: tensors and arrays begin at a multiple of 64 bytes, own their
memory, and have the strides that `Tensor.clone` keeps (dense ones as they were, others row-major). Data workers send the same.
"""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import torch

__all__ = [
    "ALIGNMENT",
    "is_dense",
    "is_plain_array",
    "is_plain_tensor",
    "kept_order",
    "own_array",
    "own_tensor",
    "settle",
]

#: bytes; what torch's own CPU allocator gives
ALIGNMENT = 64

_VALUES = frozenset({int, float, complex, bool, str, bytes, type(None), torch.dtype, torch.device, torch.Size})


# bytes; below it, to find out whether a tensor must be copied takes longer than to copy it
_LARGE = 64 << 10

# The count of references to what one container holds: its own, and the one that counting takes.
_ALONE = 2


class _UnknownError(Exception):
    """Something in a batch is of a type that is not copied here."""


def settle(box: list[Any], carry: Callable[[Any], Any]) -> Any:
    """Return the batch, which alone lies in the box, in memory of its own.

    `carry` copies a batch as its way from a data worker would: it is asked where there are objects of other types than the usual
    ones. What cannot be carried is handed out as it is, and its tensors are copied as far as they lie in usual containers.
    """
    try:
        return _part(box, 0, {}, fresh=True, strict=True)
    except (_UnknownError, RecursionError):
        pass
    try:
        return carry(box[0])
    except Exception:  # noqa: BLE001  whatever its objects raise where they are pickled: only data workers need that
        return _part(box, 0, {}, fresh=True, strict=False)


def _part(container: Any, key: Any, known: dict[int, Any], *, fresh: bool, strict: bool) -> Any:
    """Copy a part of a container, which nobody else has if it is `fresh`."""
    fresh = fresh and sys.getrefcount(container[key]) == _ALONE
    value = container[key]
    kind = type(value)
    if kind in _VALUES:
        return value
    if id(value) in known:
        return known[id(value)]
    made: Any
    if is_plain_tensor(value):
        made = value if fresh and _is_own(value) else own_tensor(value)
    elif kind in (list, tuple):
        made = kind([_part(value, i, known, fresh=fresh, strict=strict) for i in range(len(value))])
    elif kind is dict:
        made = {k: _part(value, k, known, fresh=fresh, strict=strict) for k in value}
    elif is_plain_array(value):
        made = own_array(value)
    elif strict:
        raise _UnknownError
    else:
        made = value
    known[id(value)] = made
    return made


def _is_own(tensor: torch.Tensor) -> bool:
    """Whether a large tensor that one container alone holds has its memory for itself, as a copy would."""
    if tensor.nbytes < _LARGE or tensor.grad_fn is not None or weakref.getweakrefcount(tensor):
        return False
    storage = tensor.untyped_storage()
    return (
        torch._C._storage_Use_Count(storage._cdata) == _ALONE
        and storage.resizable()  # torch allocated it
        and storage.nbytes() == tensor.nbytes
        and tensor.data_ptr() % ALIGNMENT == 0
        and is_dense(tensor)
    )


def is_dense(tensor: torch.Tensor) -> bool:
    """Whether its elements fill a piece of memory without gaps or overlaps, in whatever order of dimensions."""
    if tensor.is_contiguous():
        return True
    expected = 1
    for stride, size in sorted((s, n) for s, n in zip(tensor.stride(), tensor.shape, strict=True) if n != 1):
        if stride != expected:
            return False
        expected *= size
    return True


def is_plain_tensor(value: Any) -> bool:
    """Whether it is a tensor whose bytes are all that it is."""
    return (
        type(value) in (torch.Tensor, torch.nn.Parameter)
        and value.layout is torch.strided
        and value.device.type == "cpu"
        and not value.is_quantized
        and not value.is_nested
    )


def is_plain_array(value: Any) -> bool:
    """Whether it is a numpy array whose bytes are all that it is."""
    return type(value) in (np.ndarray, np.memmap) and not value.dtype.hasobject


def own_tensor(tensor: torch.Tensor) -> torch.Tensor:
    """Return the tensor in aligned memory of its own. A gradient history stays."""
    if tensor.grad_fn is not None:
        return tensor.clone()
    copy = tensor.detach().clone()
    if type(tensor) is torch.nn.Parameter:
        return torch.nn.Parameter(copy, requires_grad=tensor.requires_grad)
    return copy.requires_grad_() if tensor.requires_grad else copy


def kept_order(array: np.ndarray[Any, Any]) -> Literal["C", "F"]:
    """Return the order that an array keeps where it is copied."""
    return "F" if array.flags.f_contiguous and not array.flags.c_contiguous else "C"


def own_array(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return the array in aligned memory of its own, row-major unless it is column-major."""
    order = kept_order(array)
    memory = torch.empty(array.nbytes, dtype=torch.uint8).numpy()
    copy: np.ndarray[Any, Any] = np.ndarray(array.shape, array.dtype, buffer=memory, order=order)
    copy[...] = array
    return copy
