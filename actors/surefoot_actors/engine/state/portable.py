"""The user's values as bytes, and back in another process, where what both have is told by its name.

Objects that were there when the loop began have names (see `reach`); a value holds those by reference, and all else by content.
"""

from __future__ import annotations

import io
import pickle
import threading
from collections.abc import Callable
from types import CellType, FunctionType, MappingProxyType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
import xxhash
from torch import nn

from surefoot.config import Config
from surefoot_actors.engine.state.columns import OneByOneError, digest_of_many
from surefoot_actors.engine.state.functions import is_found, reduced_cell, reduced_function
from surefoot_actors.engine.state.survey import Survey
from surefoot_actors.engine.vector.memory import Spec, flat_bytes, make_like, memory_of, write_into

__all__ = ["NO_ADDRESS", "PLAIN", "content_of", "digest_of", "dump", "load"]

PLAIN = frozenset((bool, int, float, complex, str, bytes, type(None)))

# Nothing lies at a smaller address.
NO_ADDRESS = 1 << 20

# Values that take more bytes than this are not looked into.
_MOST_BYTES = 1 << 28
# Tensors and arrays above this are compared by a sample, and by torch's own count of writes.
_MOST_COMPARED = _MOST_BYTES
_SAMPLES = 1 << 16


class TooLargeError(Exception):
    """A value takes more bytes than are looked at."""


class _Digest:
    """What a pickle is written into when only its digest is wanted."""

    def __init__(self) -> None:
        self.state, self.size = xxhash.xxh3_128(), 0

    def write(self, data: Any) -> None:
        self.size += len(data)
        if self.size > _MOST_BYTES:
            raise TooLargeError
        self.state.update(data)


BaseOf = Callable[[torch.Tensor], torch.Tensor | None]
"""Returns the tensor with a name in whose memory a tensor lies; None: there is none."""

NameAt = Callable[[int], str | None]
"""Returns the name of what lies at an address, which is its id(); None: nothing with a name."""

# Nobody holds one that is made anew.
_LOCKS: dict[type, Callable[[], Any]] = {
    type(threading.Lock()): threading.Lock,
    type(threading.RLock()): threading.RLock,
}


def _no_base(_: torch.Tensor) -> None:
    return None


def _nothing_at(_: int) -> None:
    return None


class _Writer(pickle.Pickler):
    """Pickles by reference what has a name, and its id(); tensors by layout and content."""

    def __init__(
        self, into: Any, name_of: Callable[[Any], str | None], base_of: BaseOf, name_at: NameAt = _nothing_at
    ) -> None:
        super().__init__(into, protocol=5)
        self._name_of, self._base_of, self._name_at = name_of, base_of, name_at

    def persistent_id(self, value: Any) -> str | tuple[str] | None:
        if type(value) is int and value > NO_ADDRESS:
            name = self._name_at(value)
            return None if name is None else (name,)
        return None if type(value) in PLAIN else self._name_of(value)

    def reducer_override(self, value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            base = self._base_of(value)
            return _reduced(value) if base is None else _reduced_view(value, base)
        if isinstance(value, np.ndarray) and self._lies_in_another(value):
            start = value.__array_interface__["data"][0] - value.base.__array_interface__["data"][0]  # type: ignore[union-attr]
            return np.ndarray, (value.shape, value.dtype, value.base, start, value.strides)
        if isinstance(value, FunctionType) and not is_found(value):
            return reduced_function(value)
        if isinstance(value, CellType):
            return reduced_cell(value)
        if type(value) in _LOCKS:
            return _LOCKS[type(value)], ()
        if isinstance(value, MethodType):
            return _method, (value.__func__, value.__self__)
        if isinstance(value, MappingProxyType):
            return _read_only, (dict(value),)
        if isinstance(value, ModuleType):
            raise pickle.PicklingError(f"{value.__name__} is a module")
        if _is_of_the_run(type(value)):
            raise pickle.PicklingError(f"{type(value).__name__} is the run's own")
        return NotImplemented

    def _lies_in_another(self, value: np.ndarray[Any, Any]) -> bool:
        """Whether it is a part of an array with a name, so that what is written into one is there in the other."""
        base = value.base
        if type(value) is not np.ndarray or type(base) is not np.ndarray or value.dtype.hasobject:
            return False
        return base.flags.c_contiguous and min(value.strides, default=0) >= 0 and bool(self._name_of(base))


def _is_of_the_run(kind: type) -> bool:
    """Whether a joiner has one of its own."""
    is_ours = kind.__module__.startswith(("surefoot.", "surefoot_actors."))
    return is_ours and kind is not Config and not getattr(kind, "is_told", False)


class _Reader(pickle.Unpickler):
    def __init__(self, data: Any, thing: Callable[[str], Any]) -> None:
        super().__init__(data)
        self._thing = thing

    def persistent_load(self, name: Any) -> Any:
        return id(self._thing(name[0])) if isinstance(name, tuple) else self._thing(name)


def dump(
    value: Any,
    name_of: Callable[[Any], str | None],
    base_of: BaseOf = _no_base,
    name_at: NameAt = _nothing_at,
) -> bytes:
    """Return a value as bytes. Raises whatever the user's objects raise when they are pickled."""
    into = io.BytesIO()
    _Writer(into, name_of, base_of, name_at).dump(value)
    return into.getvalue()


def load(data: bytes, thing: Callable[[str], Any]) -> Any:
    """Undo `dump`: `thing` returns what has a name."""
    return _Reader(io.BytesIO(data), thing).load()


def digest_of(value: Any, name_of: Callable[[Any], str | None]) -> bytes | None:
    """Return a digest of a value's content; None for what cannot be told by its content."""
    if isinstance(value, list | dict | tuple):
        try:
            return digest_of_many(value, name_of, _MOST_BYTES)
        except OneByOneError:
            pass
    into = _Digest()
    try:
        _Writer(into, name_of, _no_base).dump(value)
    except Exception:  # noqa: BLE001  the edge to the user's objects: whatever their pickling raises
        return None
    return into.state.digest()


def content_of(value: torch.Tensor | np.ndarray[Any, Any]) -> bytes:
    """Return a digest of a tensor's or an array's content: of all of it, where it is not very large."""
    if isinstance(value, torch.Tensor):
        return _content(value)
    if value.nbytes > _MOST_COMPARED or isinstance(value, np.memmap):
        some = value.reshape(-1)[:: max(1, value.size // _SAMPLES)] if value.flags.c_contiguous else value[:1]
        return xxhash.xxh3_128_digest(some.tobytes()) if some.dtype.kind in "biufcSU" else b""
    head = repr((value.dtype, value.shape)).encode()
    if value.dtype.hasobject:
        return head
    return head + xxhash.xxh3_128_digest(np.ascontiguousarray(value).reshape(-1).view(np.uint8).data)


def _content(tensor: torch.Tensor) -> bytes:
    if tensor.is_meta or nn.parameter.is_lazy(tensor):
        return b""
    if tensor.layout is not torch.strided or tensor.is_quantized or tensor.is_nested:
        return xxhash.xxh3_128_digest(_reduced(tensor)[1][0])
    head = repr((tensor.dtype, tuple(tensor.shape))).encode()
    flat = tensor.detach()
    if tensor.nbytes > _MOST_COMPARED:
        version = -1 if tensor.is_inference() else tensor._version
        head += version.to_bytes(8, "little", signed=True)
        flat = flat.reshape(-1)[:: max(1, tensor.numel() // _SAMPLES)] if tensor.is_contiguous() else flat[:1]
    return head + xxhash.xxh3_128_digest(memory_of(flat_bytes(flat)))


def _read_only(values: dict[Any, Any]) -> MappingProxyType[Any, Any]:
    return MappingProxyType(values)


def _method(function: Any, of: Any) -> MethodType:
    return MethodType(function, of)


def _reduced(tensor: torch.Tensor) -> Any:
    """Return how a tensor is made again: one that is sparse or quantized as torch itself has it."""
    if tensor.layout is not torch.strided or tensor.is_quantized or tensor.is_nested:
        into = io.BytesIO()
        torch.save(tensor.detach(), into)
        return _saved, (into.getvalue(), tensor.requires_grad)
    return _tensor, (type(tensor), _spec(tensor), tensor.device.type, bytes(memory_of(flat_bytes(tensor))))


def _reduced_view(tensor: torch.Tensor, base: torch.Tensor) -> Any:
    """Return how a tensor is made again that lies in the memory of another one: what is written into one is there in the other."""
    return _view, (base, tuple(tensor.shape), tensor.stride(), tensor.storage_offset() - base.storage_offset())


def _view(base: torch.Tensor, shape: tuple[int, ...], stride: tuple[int, ...], offset: int) -> torch.Tensor:
    return base.detach().as_strided(shape, stride, base.storage_offset() + offset)


def _saved(data: bytes, requires_grad: bool) -> torch.Tensor:
    loaded: torch.Tensor = torch.load(io.BytesIO(data), weights_only=True)
    return loaded.requires_grad_(requires_grad)


def _spec(tensor: torch.Tensor) -> Any:
    survey = Survey()
    survey.number("", tensor)
    return tuple(survey.specs()[0])


def _tensor(kind: type, spec: Any, device: str, data: bytes) -> torch.Tensor:
    spec = Spec(*spec)
    made = make_like(spec, torch.device(device), None)
    if data:
        flat = torch.frombuffer(bytearray(data), dtype=torch.uint8).view(spec.dtype).view(spec.shape)
        write_into(made.detach(), flat)
    return made if kind in (torch.Tensor, nn.Parameter) else made.as_subclass(kind)
