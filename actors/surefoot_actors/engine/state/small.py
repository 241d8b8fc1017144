"""Small values, by content: what an attribute holds, copied, compared and put back in place."""

from __future__ import annotations

import pickle
from collections import OrderedDict, defaultdict, deque
from typing import Any

import numpy as np
import torch

from surefoot_actors.engine.image import flat_bytes
from surefoot_actors.engine.state.memory import memory_of

__all__ = ["PLAIN", "differ", "put_back", "small"]

PLAIN = (bool, int, float, complex, str, bytes, type(None))
_CONTAINERS = (list, tuple, set, frozenset, dict, OrderedDict, defaultdict, deque)
# what is copied of one attribute, at most
_MOST_BYTES, _MOST_ITEMS = 1 << 20, 4096


def small(value: Any) -> Any:
    """Return a copy of a small value of plain types, NotImplemented for anything else."""
    kind = type(value)
    if kind in PLAIN:
        return value
    if not _is_small(value, [_MOST_ITEMS, _MOST_BYTES]):
        return NotImplemented
    return pickle.loads(pickle.dumps(value))  # noqa: S301  of our own making, of plain types


def _is_small(value: Any, left: list[int]) -> bool:
    """Whether a value is of plain types, and of no more items and bytes than are left."""
    kind = type(value)
    left[0] -= 1
    left[1] -= value.nbytes if kind in (torch.Tensor, np.ndarray) else len(value) if kind in (str, bytes) else 8
    if min(left) < 0:
        return False
    if kind in PLAIN or isinstance(value, np.generic):
        return True
    if kind is torch.Tensor:
        # one that is trained is an optimizer's business
        return not value.requires_grad and value.device.type == "cpu" and value.layout is torch.strided
    if kind is np.ndarray:
        return value.dtype.kind in "biufcSU"
    if kind not in _CONTAINERS or (kind is defaultdict and not isinstance(value.default_factory, type | None)):
        return False
    inside = [*value.keys(), *value.values()] if isinstance(value, dict) else list(value)
    return all(_is_small(v, left) for v in inside)


def differ(one: Any, other: Any) -> bool:
    """Whether two small values are of different types or content; NaN is itself."""
    if type(one) is not type(other):
        return True
    if type(one) in PLAIN:
        return bool(one != other and not (one != one and other != other))
    if isinstance(one, torch.Tensor):
        same = one.dtype == other.dtype and one.shape == other.shape
        return not same or memory_of(flat_bytes(one)) != memory_of(flat_bytes(other))
    if isinstance(one, np.ndarray | np.generic):
        return bool(one.dtype != other.dtype or one.shape != other.shape or one.tobytes() != other.tobytes())
    if isinstance(one, set | frozenset):
        return bool(one != other)
    if isinstance(one, dict):
        return one.keys() != other.keys() or any(differ(value, other[key]) for key, value in one.items())
    return len(one) != len(other) or any(map(differ, one, other))


def put_back(attributes: dict[str, Any], name: str, value: Any) -> None:
    """Give an attribute a value, within the object that is there where that can be: others may hold it too."""
    attributes[name] = _within(attributes.get(name), value)


def _within(own: Any, value: Any) -> Any:
    """Return the value, within the object that is there where that can be."""
    if type(own) is not type(value):
        return value
    if isinstance(value, torch.Tensor):
        if own.shape != value.shape or own.dtype != value.dtype:
            return value
        own.detach().copy_(value)
    elif isinstance(value, np.ndarray):
        if own.shape != value.shape or own.dtype != value.dtype or not own.flags.writeable:
            return value
        own[...] = value
    elif isinstance(value, list):
        own[:] = [_within(mine, theirs) for mine, theirs in zip(own, value, strict=False)] + value[len(own) :]
    elif isinstance(value, dict):
        items = {key: _within(own.get(key), theirs) for key, theirs in value.items()}
        own.clear()
        own.update(items)
    elif isinstance(value, set):
        own.clear()
        own.update(value)
    else:
        return value
    return own
