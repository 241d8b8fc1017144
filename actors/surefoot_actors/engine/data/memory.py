"""The memory that batches are handed out in: the same whoever loaded them.

Kernels give other bits by the alignment and the strides of their operands, and code that changes a batch in place must not change
the dataset. So whatever the user's code put together is copied: tensors and arrays begin at a multiple of 64 bytes, own their
memory, and have the strides that `Tensor.clone` keeps (dense ones as they were, others row-major). Data workers send the same.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import torch

__all__ = ["ALIGNMENT", "is_plain_array", "is_plain_tensor", "kept_order", "own_array", "own_tensor", "settle"]

#: bytes; what torch's own CPU allocator gives
ALIGNMENT = 64

_VALUES = frozenset({int, float, complex, bool, str, bytes, type(None), torch.dtype, torch.device, torch.Size})


class _UnknownError(Exception):
    """Something in a batch is of a type that is not copied here."""


def settle(batch: Any, carry: Callable[[Any], Any]) -> Any:
    """Return the batch in memory of its own.

    `carry` copies a batch as its way from a data worker would: it is asked where there are objects of other types than the usual
    ones. What cannot be carried is handed out as it is, and its tensors are copied as far as they lie in usual containers.
    """
    try:
        return _copied(batch, {}, strict=True)
    except (_UnknownError, RecursionError):
        pass
    try:
        return carry(batch)
    except Exception:  # noqa: BLE001  whatever its objects raise where they are pickled: only data workers need that
        return _copied(batch, {}, strict=False)


def _copied(value: Any, known: dict[int, Any], *, strict: bool) -> Any:
    kind = type(value)
    if kind in _VALUES:
        return value
    if id(value) in known:
        return known[id(value)]
    made: Any
    if is_plain_tensor(value):
        made = own_tensor(value)
    elif kind in (list, tuple):
        made = kind([_copied(item, known, strict=strict) for item in value])
    elif kind is dict:
        made = {key: _copied(item, known, strict=strict) for key, item in value.items()}
    elif is_plain_array(value):
        made = own_array(value)
    elif strict:
        raise _UnknownError
    else:
        made = value
    known[id(value)] = made
    return made


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
