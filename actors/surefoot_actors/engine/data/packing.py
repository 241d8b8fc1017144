"""Batches as bytes: how data workers send them.

Pickle protocol 5, with the bytes of tensors and arrays out of band: they lie at multiples of 64 bytes in one block of memory, so what
is made of them has the alignment of `memory.settle`, and its strides.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from surefoot.errors import ContractError
from surefoot_actors.engine.data.memory import ALIGNMENT, is_dense, is_plain_array, is_plain_tensor, kept_order

__all__ = ["Packed", "Place", "carry", "pack", "unpack"]


Place = tuple[int, int, int]
"""Where a piece lies: the number of the block of memory, the offset in it, the size."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Packed:
    """A value as bytes: `stream` is its pickle, without the `pieces`, which are flat and contiguous."""

    stream: bytes
    pieces: list[memoryview]

    def places(self, shared: Mapping[int, int]) -> tuple[list[Place], int, list[int]]:
        """Return where the pieces lie, the size of block 0, and the files that are blocks 1, 2 ...

        `shared`: files in memory, by the address of the piece that lies in it already; the others go to block 0.
        """
        at, places, files = 0, list[Place](), list[int]()
        for piece in self.pieces:
            file = shared.get(np.frombuffer(piece, np.uint8).ctypes.data) if shared and piece.nbytes else None
            if file is not None and file not in files:
                files.append(file)
                places.append((len(files), 0, piece.nbytes))
            else:
                places.append((0, at, piece.nbytes))
                at += -(-piece.nbytes // ALIGNMENT) * ALIGNMENT
        return places, at, files


class _Pickler(pickle.Pickler):
    def reducer_override(self, value: Any) -> Any:
        if is_plain_tensor(value):
            return _reduce_tensor(value)
        if is_plain_array(value):
            return _reduce_array(value)
        if type(value) is torch.UntypedStorage and value.device.type == "cpu":  # of a tensor subclass
            flat = torch.empty(0, dtype=torch.uint8).set_(value)
            return _make_storage, (pickle.PickleBuffer(flat.numpy().data),)
        return NotImplemented


def pack(value: Any) -> Packed:
    """Return a value as bytes. Raises ContractError, naming the path and the type, for what cannot be pickled."""
    buffers: list[pickle.PickleBuffer] = []
    try:
        stream = _pickle(value, buffers)
    except Exception as error:
        raise _unpicklable(value, error) from error
    return Packed(stream=stream, pieces=[buffer.raw() for buffer in buffers])


def unpack(stream: bytes | memoryview, places: Sequence[Place], blocks: Sequence[torch.Tensor]) -> Any:
    """Return the value. Its tensors and arrays lie in the blocks (uint8, aligned), which nothing else uses."""
    memory = [block.numpy() for block in blocks]
    return pickle.loads(stream, buffers=[memory[block][at : at + size] for block, at, size in places])  # noqa: S301  from our own worker


def carry(value: Any) -> Any:
    """Return a copy of a value, as it would arrive from a data worker."""
    packed = pack(value)
    places, size, _ = packed.places({})
    block = torch.empty(size, dtype=torch.uint8)
    memory = block.numpy()
    for (_, at, num_bytes), piece in zip(places, packed.pieces, strict=True):
        memory[at : at + num_bytes] = np.frombuffer(piece, np.uint8)
    return unpack(packed.stream, places, [block])


def _pickle(value: Any, buffers: list[pickle.PickleBuffer]) -> bytes:
    out = io.BytesIO()
    _Pickler(out, protocol=5, buffer_callback=buffers.append).dump(value)
    return out.getvalue()


def _reduce_tensor(tensor: torch.Tensor) -> tuple[Any, ...]:
    if tensor.grad_fn is not None:
        raise TypeError(
            "it has a gradient history, which ends at the process that made it: detach() it, or compute what needs gradients in training"
        )
    requires_grad, is_parameter = tensor.requires_grad, type(tensor) is torch.nn.Parameter
    plain = tensor.detach().resolve_conj().resolve_neg()
    if not is_dense(plain):
        plain = plain.clone()
    flat = plain.as_strided((plain.numel(),), (1,)).view(torch.uint8).numpy()
    shape = (plain.dtype, tuple(plain.shape), plain.stride(), requires_grad, is_parameter)
    return _make_tensor, (pickle.PickleBuffer(flat.data), *shape)


def _make_tensor(
    memory: Any, dtype: torch.dtype, shape: Any, stride: Any, requires_grad: bool, is_parameter: bool
) -> torch.Tensor:
    tensor = torch.from_numpy(memory).view(dtype).as_strided(shape, stride)
    if is_parameter:
        return torch.nn.Parameter(tensor, requires_grad=requires_grad)
    return tensor.requires_grad_() if requires_grad else tensor


def _reduce_array(array: np.ndarray[Any, Any]) -> tuple[Any, ...]:
    order = kept_order(array)
    flat = np.asarray(array).ravel(order=order)
    memory = flat.view(np.uint8) if flat.nbytes else np.empty(0, np.uint8)
    return _make_array, (pickle.PickleBuffer(memory.data), array.dtype, array.shape, order)


def _make_array(memory: Any, dtype: Any, shape: Any, order: Any) -> Any:
    return np.ndarray(shape, dtype, buffer=memory, order=order)


def _make_storage(memory: Any) -> Any:
    return torch.from_numpy(memory).untyped_storage()


def _unpicklable(value: Any, error: Exception) -> ContractError:
    path, culprit, cause = _culprit(value, "batch", error, frozenset())
    kind = type(culprit)
    return ContractError(
        f"{path} is a {kind.__module__}.{kind.__qualname__}, which cannot be sent from a data worker to training: {cause}. Have "
        f"__getitem__ and collate return tensors, arrays, numbers, strings and containers of them, or run with data_workers=0"
    )


def _culprit(value: Any, path: str, error: Exception, above: frozenset[int]) -> tuple[str, Any, Exception]:
    """Return the innermost part of a value that cannot be pickled, and why."""
    if id(value) not in above:
        for step, part in _parts(value):
            try:
                _pickle(part, [])
            except Exception as inner:  # noqa: BLE001  whatever its objects raise
                return _culprit(part, path + step, inner, above | {id(value)})
    return path, value, error


def _parts(value: Any) -> list[tuple[str, Any]]:
    if isinstance(value, dict):
        return [(f"[{key!r}]", part) for key, part in value.items()]
    if isinstance(value, list | tuple):
        return [(f"[{i}]", part) for i, part in enumerate(value)]
    return [(f".{name}", part) for name, part in getattr(value, "__dict__", {}).items()]
