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
from typing import Any

import torch

from surefoot_actors.engine.data.packing import Packed, pack, unpack

__all__ = ["Channel", "ChannelClosedError"]

# bytes of the stream, of the block, of the list of places; whether they lie in a file
_HEAD = struct.Struct("<QQQ?")

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

    def send(self, value: Any) -> None:
        """Send a value. Raises ContractError for what cannot be pickled, ChannelClosedError, OSError when memory is short."""
        packed = pack(value)
        places, size = packed.places()
        where = pickle.dumps(places, protocol=5)
        head = _HEAD.pack(len(packed.stream), size, len(where), size + len(packed.stream) + len(where) > _MOST_INLINE)
        try:
            if head[-1]:
                self._send_file(head, packed, places, size, where)
            else:
                self._sock.sendall(b"".join((head, _block(packed, places, size), packed.stream, where)))
        except (BrokenPipeError, ConnectionResetError) as error:
            raise ChannelClosedError from error

    def _send_file(self, head: bytes, packed: Packed, places: list[tuple[int, int]], size: int, where: bytes) -> None:
        number = os.memfd_create("surefoot-batch")
        try:
            os.ftruncate(number, size + len(packed.stream) + len(where))
            for (at, _), piece in zip(places, packed.pieces, strict=True):
                _write(number, piece, at)
            _write(number, memoryview(packed.stream), size)
            _write(number, memoryview(where), size + len(packed.stream))
            socket.send_fds(self._sock, [head], [number])
        finally:
            os.close(number)

    def receive(self) -> Any:
        """Return the next value; blocks. Raises ChannelClosedError, and whatever the value's classes raise."""
        try:
            head, numbers, _, _ = socket.recv_fds(self._sock, _HEAD.size, 1)
            if len(head) < _HEAD.size:
                head += self._rest(_HEAD.size - len(head)) if head else b""
            if not head:
                raise ChannelClosedError
            stream, size, where, in_file = _HEAD.unpack(head)
            if in_file and not numbers:  # the kernel found no free number for it here
                raise OSError(
                    errno.EMFILE, "a batch could not be taken from a data worker: too many open files in this process"
                )
            whole = _mapped(numbers[0], size + stream + where) if in_file else self._block(size + stream + where)
        except ConnectionResetError as error:
            raise ChannelClosedError from error
        memory = whole.numpy().data
        places = pickle.loads(memory[size + stream :])  # noqa: S301  from our own worker
        return unpack(memory[size : size + stream], places, whole)

    def _block(self, size: int) -> torch.Tensor:
        block = torch.empty(size, dtype=torch.uint8)
        memory = block.numpy().data
        while memory:
            num = self._sock.recv_into(memory)
            if not num:
                raise ChannelClosedError
            memory = memory[num:]
        return block

    def _rest(self, size: int) -> bytes:
        return bytes(self._block(size).numpy())


def _block(packed: Packed, places: list[tuple[int, int]], size: int) -> bytes:
    block = bytearray(size)
    for (at, num), piece in zip(places, packed.pieces, strict=True):
        block[at : at + num] = piece
    return bytes(block)


def _write(number: int, data: memoryview, at: int) -> None:
    data = data.cast("B")
    while data:
        num = os.pwrite(number, data, at)
        data, at = data[num:], at + num


def _mapped(number: int, size: int) -> torch.Tensor:
    try:
        storage = torch.UntypedStorage.from_file(f"/proc/self/fd/{number}", True, size)
    finally:
        os.close(number)
    return torch.empty(0, dtype=torch.uint8).set_(storage)  # type: ignore[arg-type]
