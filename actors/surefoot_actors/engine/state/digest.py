"""Digests of the tracked state, whole or one stripe a step, so that trainers that drift apart are found at little cost."""

from __future__ import annotations

import io
import marshal
from collections import deque
from collections.abc import Iterator
from functools import lru_cache
from types import FunctionType, MethodType
from typing import Any

import numpy as np
import torch
import xxhash

from surefoot_actors.engine.state.survey import Entry, Survey
from surefoot_actors.engine.vector.end_to_end import Piece, pieces
from surefoot_actors.engine.vector.memory import flat_bytes, is_default_stride, memory_of

__all__ = ["RUN", "STRIPE_BYTES", "canonical", "digest", "names", "num_stripes", "tensor_digests", "values_of"]

# The run's own values, among the objects of the state.
RUN = "(run)"

# About 50 microseconds of hashing.
STRIPE_BYTES = 1 << 20


def num_stripes(survey: Survey) -> int:
    """Return how many stripes the state has: a function of its size alone."""
    return max(1, -(-sum([e.tensor.nbytes for e in survey.entries]) // STRIPE_BYTES))


def _stripe(survey: Survey, index: int) -> Iterator[Piece]:
    """Return what of the tensors, laid end to end, is in stripe `index % num_stripes`; -1: all."""
    sizes = [e.tensor.nbytes for e in survey.entries]
    total = sum(sizes)
    if index < 0:
        return pieces(sizes, 0, total)
    low = index % max(1, -(-total // STRIPE_BYTES)) * STRIPE_BYTES
    return pieces(sizes, low, low + STRIPE_BYTES)


def digest(survey: Survey, index: int) -> bytes:
    """Return 16 bytes over the plain values and the stripe's tensors: names, dtypes, shapes, unusual strides and bytes."""
    state = xxhash.xxh3_128(canonical(survey.objects))
    for number, start, stop in _stripe(survey, index):
        entry = survey.entries[number]
        state.update(_spec(entry))
        state.update(memory_of(flat_bytes(entry.tensor)[start:stop]))
    return state.digest()


def names(survey: Survey, index: int) -> list[str]:
    """Return the names of the tensors in the stripe."""
    return [survey.entries[piece.number].name for piece in _stripe(survey, index)]


def values_of(name: str) -> str:
    """Return what an object's plain values are called in messages."""
    return "what step.log got outside of the inner loops, or that training ends" if name == RUN else f"{name} (values)"


def tensor_digests(survey: Survey) -> dict[str, bytes]:
    """Return 16 bytes a tensor, and an object's plain values under "NAME (values)"."""
    digests = {}
    for entry in survey.entries:
        state = xxhash.xxh3_128(_spec(entry))
        state.update(memory_of(flat_bytes(entry.tensor)))
        digests[entry.name] = state.digest()
    for name, tree in survey.objects.items():
        digests[values_of(name)] = xxhash.xxh3_128_digest(canonical(tree))
    return digests


def _spec(entry: Entry) -> bytes:
    tensor = entry.tensor
    return _described(entry.name, tensor.dtype, tensor.shape, tensor.stride())


@lru_cache(maxsize=1 << 14)
def _described(name: str, dtype: torch.dtype, shape: torch.Size, stride: tuple[int, ...]) -> bytes:
    """Return what a tensor's digest holds besides its bytes: strides where they are not the usual ones."""
    layout = "" if is_default_stride(shape, stride) else f" {stride}"
    return f"{name} {dtype} {tuple(shape)}{layout}\n".encode()


def canonical(value: Any) -> bytes:
    """Return bytes that are equal in any process where the values are: format 2 of marshal has no references."""
    return marshal.dumps(_plain(value, ()), 2)


def _plain(value: Any, above: tuple[int, ...]) -> Any:
    """Return the value in builtin types: dicts and sets sorted, as their order may depend on how they came about.

    `above`: ids of the objects that `value` lies in, so that circles end.
    """
    kind = type(value)
    if kind in _BUILTIN:
        return value
    if kind is list or kind is tuple:
        return kind([v if type(v) in _BUILTIN else _plain(v, above) for v in value])
    if id(value) in above:
        return ("above", above[::-1].index(id(value)))
    if isinstance(value, torch.Tensor):
        return ("tensor",)  # inside an object: it is among the entries
    above = (*above, id(value))
    if isinstance(value, dict):
        return ("dict", sorted([(_key(k), _plain(v, above)) for k, v in value.items()], key=_first))
    if isinstance(value, (set, frozenset)):
        return ("set", sorted(map(_key, value)))
    if isinstance(value, (list, tuple, deque)):
        return (kind.__qualname__, [_plain(v, above) for v in value], _plain(_inside(value), above))
    if isinstance(value, io.BytesIO):
        return ("bytes", value.getvalue())
    if isinstance(value, np.ndarray | np.generic):  # numpy's arrays and scalars
        return (kind.__name__, str(value.dtype), value.tobytes())
    if isinstance(value, type) or callable(value):
        name = getattr(value, "__qualname__", kind.__qualname__)
        return ("named", f"{getattr(value, '__module__', '')}.{name}", _plain(_inside(value), above))
    inside = _inside(value)
    return (kind.__qualname__, _plain(inside, above) if inside else _shown(value))


_BUILTIN = frozenset((str, int, float, bool, bytes, type(None)))


def _inside(value: Any) -> Any:
    """Return an object's own state, as pickle would take it; a function's or class's is its code's business."""
    if isinstance(value, (type, FunctionType, MethodType)):
        return {}
    try:
        return value.__getstate__() or {}
    except Exception:  # noqa: BLE001  the edge to the user's objects: then its attributes are all there is to compare
        return getattr(value, "__dict__", {})


def _shown(value: Any) -> str:
    text = repr(value)
    return "" if " at 0x" in text else text  # an address says nothing of the value


def _key(value: Any) -> str:
    return value if isinstance(value, str) else f"{type(value).__name__} {value!r}"


def _first(item: tuple[str, Any]) -> str:
    return item[0]
