"""One connection to another member: tagged messages over TCP, straight from and into tensors, without a thread of its own."""

from __future__ import annotations

import socket
import struct
from collections import defaultdict, deque
from dataclasses import dataclass

__all__ = ["Count", "MessageSizeError", "Peer", "PeerLostError"]

# tag and number of bytes of the message that follows
_FRAME = struct.Struct("<IQ")
# How often a peer is read in a row before others have their turn.
_TURNS = 64


class PeerLostError(OSError):
    """The connection has ended, or carries what it should not."""


class MessageSizeError(PeerLostError):
    """The peer lives, but sends another message than the one awaited."""


@dataclass(slots=True)
class Count:
    """How many messages are left to wait for."""

    left: int = 0


class Peer:
    """Messages to and from one rank. All calls from one thread; none blocks."""

    def __init__(self, rank: int, sock: socket.socket) -> None:
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.rank, self.sock = rank, sock
        # bytes still to be sent, and whose count goes down when they are
        self._outgoing: deque[tuple[memoryview, Count | None]] = deque()
        self._posted: defaultdict[int, deque[tuple[memoryview, Count]]] = defaultdict(deque)
        # messages that came before they were asked for
        self._early: defaultdict[int, deque[memoryview]] = defaultdict(deque)
        self._frame = memoryview(bytearray(_FRAME.size))
        # what is being read: a frame while there is no count and no tag
        self._into, self._filled = self._frame, 0
        self._tag: int | None = None
        self._count: Count | None = None

    @property
    def sending(self) -> bool:
        return bool(self._outgoing)

    def send(self, tag: int, data: memoryview, count: Count) -> None:
        """Queue a message; `data` belongs to it until the count has gone down."""
        count.left += 1
        self._outgoing.append((memoryview(_FRAME.pack(tag, len(data))), None))
        self._outgoing.append((data, count))

    def receive(self, tag: int, into: memoryview, count: Count) -> None:
        """Ask for the next message with this tag, of exactly this size."""
        early = self._early[tag]
        if early:
            data = early.popleft()
            self._check_size(tag, len(data), len(into))
            into[:] = data
            return
        count.left += 1
        if self._tag == tag and self._count is None:  # being read just now: go on in place
            self._check_size(tag, len(self._into), len(into))
            into[: self._filled] = self._into[: self._filled]
            self._into, self._count = into, count
        else:
            self._posted[tag].append((into, count))

    def write(self) -> None:
        """Send as much as goes without blocking. Raises OSError when the connection has ended."""
        outgoing = self._outgoing
        while outgoing:
            try:
                sent = self.sock.sendmsg(
                    [data for data, _ in (outgoing[0], *([outgoing[1]] if len(outgoing) > 1 else ()))]
                )
            except BlockingIOError:
                return
            while sent:
                data, count = outgoing[0]
                if sent < len(data):
                    outgoing[0] = data[sent:], count
                    break
                sent -= len(data)
                outgoing.popleft()
                if count is not None:
                    count.left -= 1

    def read(self) -> None:
        """Receive what is there. Raises OSError when the connection has ended."""
        for _ in range(_TURNS):
            try:
                received = self.sock.recv_into(self._into[self._filled :])
            except BlockingIOError:
                return
            if not received:
                raise PeerLostError("closed by the peer")
            self._filled += received
            if self._filled == len(self._into):
                self._next()

    def _next(self) -> None:
        """Go on after a frame or a message is complete."""
        if self._into is self._frame:
            self._tag, length = _FRAME.unpack(self._frame)
            posted = self._posted[self._tag]
            if posted:
                self._into, self._count = posted.popleft()
                self._check_size(self._tag, length, len(self._into))
            else:
                self._into, self._count = memoryview(bytearray(length)), None
        else:
            assert self._tag is not None
            if self._count is not None:
                self._count.left -= 1
            else:
                self._early[self._tag].append(self._into)
            self._into, self._tag, self._count = self._frame, None, None
        self._filled = 0

    @staticmethod
    def _check_size(tag: int, came: int, wanted: int) -> None:
        if came != wanted:
            raise MessageSizeError(f"a message with tag {tag} has {came} bytes, {wanted} were expected")
