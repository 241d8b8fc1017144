"""The safetensors format, written from host memory as it lies there, and read where it lies: no second copy of a large state.

Format: https://huggingface.co/docs/safetensors, "Format". Eight bytes of header length, a JSON header, the tensors' bytes without gaps.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import torch

from surefoot_actors.checkpoint.storage import CHUNK_BYTES
from surefoot_actors.engine.vector.end_to_end import offsets

__all__ = ["Slot", "TensorFile", "header", "lay_out", "read_tensors"]

_NAMES = {
    torch.bool: "BOOL", torch.uint8: "U8", torch.int8: "I8", torch.int16: "I16", torch.uint16: "U16", torch.int32: "I32",
    torch.uint32: "U32", torch.int64: "I64", torch.uint64: "U64", torch.float16: "F16", torch.bfloat16: "BF16",
    torch.float32: "F32", torch.float64: "F64", torch.complex64: "C64", torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
}  # fmt: skip
_LENGTH = struct.Struct("<Q")


class Slot(NamedTuple):
    """A tensor's place in a file's data."""

    key: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    # bytes [start, stop) of the data
    start: int
    stop: int

    def view(self, data: torch.Tensor) -> torch.Tensor:
        """Return the tensor within flat bytes."""
        return data[self.start : self.stop].view(self.dtype).view(self.shape)


def lay_out(tensors: Sequence[tuple[str, torch.dtype, tuple[int, ...]]]) -> list[Slot]:
    """Return a place for each tensor, in the order given: aligned, since the widest types lie first."""
    order = sorted(range(len(tensors)), key=lambda i: -tensors[i][1].itemsize)
    sizes = [torch.Size(shape).numel() * dtype.itemsize for _, dtype, shape in (tensors[i] for i in order)]
    places = dict(zip(order, pairwise(offsets(sizes)), strict=True))
    return [Slot(*tensor, *places[i]) for i, tensor in enumerate(tensors)]


class TensorFile:
    """Slots and the flat uint8 memory they lie in; `chunks` is the file."""

    def __init__(self, slots: Sequence[Slot], data: torch.Tensor) -> None:
        self._head, self._data = header(slots, {}), data

    @property
    def num_bytes(self) -> int:
        return len(self._head) + self._data.numel()

    def chunks(self) -> Iterator[Any]:
        """Yield the file's bytes in order."""
        yield self._head
        memory = self._data.numpy().data
        for at in range(0, len(memory), CHUNK_BYTES):
            yield memory[at : at + CHUNK_BYTES]


def header(slots: Sequence[Slot], metadata: Mapping[str, str]) -> bytes:
    """Return what comes before the data."""
    fields: dict[str, Any] = {"__metadata__": {"format": "pt", **metadata}}
    for slot in sorted(slots, key=lambda s: (s.start, s.stop)):
        name, shape = _NAMES.get(slot.dtype), slot.shape
        if name is None:  # a type that the format has no word for goes as its bytes
            name, shape = "U8", (*shape, slot.dtype.itemsize)
        fields[slot.key] = {"dtype": name, "shape": shape, "data_offsets": [slot.start, slot.stop]}
    text = json.dumps(fields, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return _LENGTH.pack(len(text)) + text


def read_tensors(file: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return the bytes of every tensor of a file (flat uint8, verified by its digest), aliasing it."""
    (length,) = _LENGTH.unpack(bytes(file[: _LENGTH.size].tolist()))
    header = json.loads(file[_LENGTH.size : _LENGTH.size + length].numpy().tobytes())
    header.pop("__metadata__", None)
    data = file[_LENGTH.size + length :]
    return {key: data[slice(*fields["data_offsets"])] for key, fields in header.items()}
