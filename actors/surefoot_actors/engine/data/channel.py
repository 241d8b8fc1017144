"""How a trainer and one of its data workers talk: messages over a pair of sockets, large ones in memory that changes hands.

What stands in the sockets is always small, so that neither side waits in `send` for the other to receive. A large message is written
to a file in memory, whose descriptor is passed on and closed once it is mapped: no descriptor outlives the message.
"""

from __future__ import annotations

import errno
import os
import pickle
import socket
import struct
from collections.abc import Mapping
from typing import Any

import torch

from surefoot_actors.engine.data.packing import Packed, Place, pack, unpack

__all__ = ["Channel", "ChannelClosedError", "mapped"]

# bytes of the stream, of the block, of the list of places; whether they lie in a file; how many files there are besides
_HEAD = struct.Struct("<QQQ?B")

# What is passed on at a time: descriptors in flight are limited, too.
_MOST_FILES = 16
_NONE: Mapping[int, int] = {}

# Two requests and two answers of this size stand in a socket's buffer.
_MOST_INLINE = 16 << 10


class ChannelClosedError(Exception):
    """The other side is gone."""


class Channel:
    """One side of the talk."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock

    @classmethod
    def pair(cls) -> tuple[Channel, Channel]:
        """Return both sides."""
        one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        return cls(one), cls(other)

    def fileno(self) -> int:
        return self._sock.fileno()

    def close(self) -> None:
        """Hang up."""
        self._sock.close()

    def send(self, value: Any, shared: Mapping[int, int] = _NONE) -> None:
        """Send a value. Raises ContractError for what cannot be pickled, ChannelClosedError, OSError when memory is short.

        `shared`: files in memory, by the address of the tensor that fills one: these are handed over instead of copied.
        """
        packed = pack(value)
        places, size, files = packed.places(shared if len(shared) <= _MOST_FILES else _NONE)
        where = pickle.dumps(places, protocol=5)
        in_file = size + len(packed.stream) + len(where) > _MOST_INLINE
        head = _HEAD.pack(len(packed.stream), size, len(where), in_file, len(files))
        try:
            if in_file:
                self._send_file(head, packed, places, size, where, files)
                return
            if files:
                socket.send_fds(self._sock, [head], files)
                head = b""
            self._sock.sendall(b"".join((head, _block(packed, places, size), packed.stream, where)))
        except (BrokenPipeError, ConnectionResetError) as error:
            raise ChannelClosedError from error

    def _send_file(
        self, head: bytes, packed: Packed, places: list[Place], size: int, where: bytes, files: list[int]
    ) -> None:
        number = os.memfd_create("surefoot-batch")
        try:
            os.ftruncate(number, size + len(packed.stream) + len(where))
            for (block, at, _), piece in zip(places, packed.pieces, strict=True):
                if not block:
                    _write(number, piece, at)
            _write(number, memoryview(packed.stream), size)
            _write(number, memoryview(where), size + len(packed.stream))
            socket.send_fds(self._sock, [head], [number, *files])
        finally:
            os.close(number)

    def receive(self) -> Any:
        """Return the next value; blocks. Raises ChannelClosedError, and whatever the value's classes raise."""
        try:
            head, numbers, _, _ = socket.recv_fds(self._sock, _HEAD.size, _MOST_FILES + 1)
            if not head:
                raise ChannelClosedError
            if len(head) < _HEAD.size:
                head += bytes(self._block(_HEAD.size - len(head)).numpy())
            stream, size, where, in_file, num_files = _HEAD.unpack(head)
            if len(numbers) < in_file + num_files:  # the kernel found no free numbers for them here
                for number in numbers:
                    os.close(number)
                raise OSError(errno.EMFILE, "a batch could not be taken from a data worker: too many open files here")
            whole = self._whole(numbers.pop(0) if in_file else None, size + stream + where)
        except ConnectionResetError as error:
            raise ChannelClosedError from error
        memory = whole.numpy().data
        places: list[Place] = pickle.loads(memory[size + stream :])  # noqa: S301  from our own worker
        sizes = {block: num_bytes for block, _, num_bytes in places}
        blocks = [self._whole(number, sizes[i]) for i, number in enumerate(numbers, 1)]
        return unpack(memory[size : size + stream], places, [whole, *blocks])

    def _whole(self, number: int | None, size: int) -> torch.Tensor:
        if number is None:
            return self._block(size)
        try:
            return mapped(number, size)
        finally:
            os.close(number)

    def _block(self, size: int) -> torch.Tensor:
        block = torch.empty(size, dtype=torch.uint8)
        memory = block.numpy().data
        while memory:
            num = self._sock.recv_into(memory)
            if not num:
                raise ChannelClosedError
            memory = memory[num:]
        return block


def _block(packed: Packed, places: list[Place], size: int) -> bytes:
    memory = bytearray(size)
    for (block, at, num), piece in zip(places, packed.pieces, strict=True):
        if not block:
            memory[at : at + num] = piece
    return bytes(memory)


def _write(number: int, data: memoryview, at: int) -> None:
    data = data.cast("B")
    while data:
        num = os.pwrite(number, data, at)
        data, at = data[num:], at + num


def mapped(number: int, size: int) -> torch.Tensor:
    """Return the bytes of a file in memory; the descriptor is not needed for them any more."""
    storage = torch.UntypedStorage.from_file(f"/proc/self/fd/{number}", True, size)
    return torch.empty(0, dtype=torch.uint8).set_(storage)  # type: ignore[arg-type]
