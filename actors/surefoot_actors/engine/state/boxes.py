"""What holds a value without being a container: numbers of ctypes; and which attributes of libraries' objects are looked at."""

from __future__ import annotations

import ctypes
import types
from collections import deque
from typing import Any

import numpy as np
import torch
from torch import nn

from surefoot_actors.engine.state.deferred_dynamo import defer_dynamo

__all__ = ["BOXES", "DATA_LIBRARIES", "HELD_BY_MODULES", "OF_OPTIMIZERS", "fill_box", "read_box"]

# Numbers and arrays of numbers in C's memory: those of `multiprocessing.Value` too, with which scripts share an epoch.
BOXES = (ctypes._SimpleCData, ctypes.Array)

# Libraries whose objects are data and estimators: what the loop changes in them is as the user's own.
DATA_LIBRARIES = frozenset(("sklearn", "scipy", "pandas", "omegaconf", "ml_collections"))

# What of a module of a library's class is looked at besides numbers and texts: what code of the user's hangs on it.
HELD_BY_MODULES = (dict, list, deque, set, torch.Tensor, np.ndarray, types.FunctionType, types.MethodType)

defer_dynamo()  # before the first optimizer is made: here

# The attributes that every optimizer has: they are its state, or nobody's business.
OF_OPTIMIZERS = frozenset(vars(torch.optim.SGD([nn.Parameter(torch.zeros(1))])))


def read_box(box: Any) -> bytes:
    return bytes(box) if not _points(box) else b""


def fill_box(box: Any, value: bytes) -> None:
    if value:
        ctypes.memmove(ctypes.addressof(box), value, len(value))


def _points(box: Any) -> bool:
    """Whether a box holds addresses, which mean nothing to another process."""
    kind = box._type_
    return (not isinstance(kind, str) and not issubclass(kind, ctypes._SimpleCData)) or kind in ("O", "P", "z", "Z")
