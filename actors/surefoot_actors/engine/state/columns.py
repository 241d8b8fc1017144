"""Digests of containers of very many things, level by level: all values of a kind at once, where pickling each takes seconds.

A data set in memory is a list of a hundred thousand tensors, arrays, dicts or objects, and is compared several times in the first steps,
and at every checkpoint.
"""

from __future__ import annotations

import marshal
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable, Collection
from itertools import chain
from pathlib import PurePath
from typing import Any

import numpy as np
import torch
import xxhash
from torch import nn

from surefoot_actors.engine.data.code import slots_of
from surefoot_actors.engine.vector.memory import flat_bytes, memory_of

__all__ = ["OneByOneError", "digest_of_many"]

# Of marshal's formats the last one that tells values alone, not which of them are one object.
_MARSHAL = 2
# The flag of classes that a class statement makes, not of those of C.
_HEAP_TYPE = 1 << 9
# So many levels are gone into.
_DEEP = 8
_PLAIN = frozenset((bool, int, float, complex, str, bytes, type(None)))
_TENSORS = frozenset((torch.Tensor, nn.Parameter))
_SEQUENCES = frozenset((list, tuple, deque, set, frozenset))
_DICTS = frozenset((dict, Counter, OrderedDict, defaultdict))


class OneByOneError(Exception):
    """There are things in it that are not known here."""


def digest_of_many(value: Any, name_of: Callable[[Any], str | None], most_bytes: int) -> bytes | None:
    """Return a digest of a container's content; None: it takes more bytes than `most_bytes`.

    Raises OneByOneError where it holds things that have names, or that only their own code can tell.
    """
    into = _Columns(name_of, most_bytes)
    into.add([value], _DEEP)
    return None if into.bytes_left < 0 else into.state.digest()


class _Columns:
    def __init__(self, name_of: Callable[[Any], str | None], most_bytes: int) -> None:
        self.state, self.bytes_left = xxhash.xxh3_128(), most_bytes
        self._name_of = name_of

    def add(self, values: list[Any], deep: int) -> None:
        """Add values that are on one level, by kind."""
        kinds = dict.fromkeys(map(type, values))
        if self.bytes_left < 0:
            return
        if _PLAIN.issuperset(kinds):
            self._put(marshal.dumps(values, _MARSHAL))
            return
        if deep == 0 or (deep < _DEEP and any(map(self._name_of, values))):
            raise OneByOneError
        if len(kinds) > 1:
            numbers = {kind: i for i, kind in enumerate(kinds)}
            self._put(np.fromiter((numbers[type(v)] for v in values), np.int32, len(values)).tobytes())
        for kind in kinds:
            self._put(f"{kind.__module__}.{kind.__qualname__}".encode())
            self._add_alike(kind, values if len(kinds) == 1 else [v for v in values if type(v) is kind], deep - 1)

    def _add_alike(self, kind: type, values: list[Any], deep: int) -> None:
        if kind in _PLAIN:
            self._put(marshal.dumps(values, _MARSHAL))
        elif kind in _TENSORS:
            self._add_tensors(values)
        elif kind is np.ndarray:
            self._add_arrays(values)
        elif issubclass(kind, np.generic):
            self._add_arrays([np.array(values)])
        elif kind in _SEQUENCES or (issubclass(kind, tuple) and hasattr(kind, "_fields")):
            self._add_flat(values, deep)
        elif kind in _DICTS:
            self._add_flat(values, deep)
            self.add(list(chain.from_iterable(v.values() for v in values)), deep)
        elif issubclass(kind, PurePath):
            self._put(marshal.dumps(list(map(str, values)), _MARSHAL))
        elif _is_its_attributes(kind):
            self._add_alike(dict, list(map(vars, values)), deep)
        else:
            raise OneByOneError

    def _add_flat(self, values: list[Any], deep: int) -> None:
        self._put(np.fromiter(map(len, values), np.int64, len(values)).tobytes())
        self.add(list(chain.from_iterable(values)), deep)

    def _add_tensors(self, values: list[torch.Tensor]) -> None:
        if any(t.layout is not torch.strided or t.is_quantized or t.is_nested or t.is_meta for t in values):
            raise OneByOneError
        kinds = dict.fromkeys(zip([t.dtype for t in values], [t.device for t in values], strict=True))
        self._add_heads(kinds, values)
        if self._fits(values):
            for kind in kinds:
                some = values if len(kinds) == 1 else [t for t in values if (t.dtype, t.device) == kind]
                self._put(memory_of(flat_bytes(_laid_end_to_end(some))))

    def _add_arrays(self, values: list[np.ndarray[Any, Any]]) -> None:
        kinds = {a.dtype for a in values}
        if any(kind.hasobject for kind in kinds):
            raise OneByOneError
        self._add_heads(kinds, values)
        if self._fits(values):
            self._put(b"".join([a.tobytes() for a in values]))

    def _add_heads(self, kinds: Collection[Any], values: list[Any]) -> None:
        """What there is to tell besides the numbers."""
        self._put(repr([v.dtype for v in values] if len(kinds) > 1 else values[0].dtype).encode())
        self._put(marshal.dumps([tuple(v.shape) for v in values], _MARSHAL))

    def _fits(self, values: list[Any]) -> bool:
        if sum([v.nbytes for v in values]) > self.bytes_left:
            self.bytes_left = -1
        return self.bytes_left >= 0

    def _put(self, data: Any) -> None:
        self.bytes_left -= len(data)
        self.state.update(data)


@torch.no_grad()
def _laid_end_to_end(tensors: list[torch.Tensor]) -> torch.Tensor:
    """Tensors of one dtype and device as one. That they are taken flat one by one would take most of the time."""
    if len({t.shape for t in tensors}) == 1:
        return torch.stack(tensors)
    return torch.cat([t if t.dim() == 1 else t.reshape(-1) for t in tensors])


def _is_its_attributes(kind: type) -> bool:
    """Whether an object of this class is what its attributes are: it is made by Python alone, and pickled as every object is."""
    own = ("__reduce__", "__reduce_ex__", "__getstate__")
    if kind.__module__.startswith("surefoot") or any(
        getattr(kind, n, None) is not getattr(object, n, None) for n in own
    ):
        return False
    base: type | None = kind
    while base is not None and base.__flags__ & _HEAP_TYPE:
        base = base.__base__
    return base is object and kind.__dictoffset__ != 0 and not slots_of(kind)
