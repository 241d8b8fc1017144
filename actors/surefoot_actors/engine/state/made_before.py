"""What was made before the loop, and ought to be alike on every trainer: masks that were drawn, splits, generators.

It is not where it was drawn from the system's randomness (`np.random.default_rng()`), or where one process found a cache and drew less
than another that had to make it. The state at the start is one trainer's, and so is this: others are given it, where it is small.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
import xxhash

from surefoot_actors.engine.state.generators import GENERATORS
from surefoot_actors.engine.state.variables import Variables

__all__ = ["MOST_IN_ALL", "code_of", "is_made_before", "size_of"]

# Larger ones, and more in all, are not given.
MOST_BYTES = 1 << 18
MOST_IN_ALL = 1 << 22
# Shorter lists of whole numbers may be of this process: its ports, its devices.
_FEW = 16


def is_made_before(thing: Any) -> bool:
    """Whether all that is in a thing is alike on all trainers, as they have the same code: numbers, and many of them."""
    if isinstance(thing, torch.Tensor):
        return _is_plain(thing) and thing.nbytes <= MOST_BYTES
    if isinstance(thing, np.ndarray):
        return (
            thing.dtype.kind in "biufc" and thing.nbytes <= MOST_BYTES and thing.base is None and thing.flags.writeable
        )
    if type(thing) is list:
        return _FEW <= len(thing) <= MOST_BYTES // 8 and set(map(type, thing)) == {int}
    return isinstance(thing, GENERATORS)


def size_of(thing: Any) -> int:
    """Return about how many bytes it takes, given away."""
    return (
        thing.nbytes
        if isinstance(thing, torch.Tensor | np.ndarray)
        else 8 * len(thing)
        if type(thing) is list
        else 5000
    )


def _is_plain(tensor: torch.Tensor) -> bool:
    if tensor.layout is not torch.strided or tensor.is_quantized or tensor.is_meta or tensor.is_inference():
        return False
    if tensor.is_nested or torch.nn.parameter.is_lazy(tensor):
        return False
    return not tensor.is_shared()  # type: ignore[no-untyped-call]


def code_of(things: Iterable[tuple[str, Any]]) -> bytes:
    """Return a digest of the user's functions: where a run goes on with other code, that decides what it makes."""
    state = xxhash.xxh3_128()
    for name, thing in sorted(things, key=lambda named: named[0]):
        code = (
            thing.__code__
            if isinstance(thing, types.FunctionType)
            else thing.code
            if isinstance(thing, Variables)
            else None
        )
        if code is not None:
            state.update(name.encode())
            _add(state.update, code)
    return state.digest()


def _add(update: Callable[[bytes], Any], code: types.CodeType) -> None:
    """All but where it stands: packages lie at other places on other nodes."""
    update(code.co_code)
    update(repr((code.co_names, code.co_varnames, code.co_freevars)).encode())
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            _add(update, constant)
        elif isinstance(constant, frozenset):
            update(repr(sorted(map(repr, constant))).encode())
        else:
            update(repr(constant).encode())
