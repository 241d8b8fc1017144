"""How the members of a group connect: one TCP connection between each two, made in a way that close() can end."""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable

import xxhash

from surefoot_actors.engine.group.rendezvous import Address

__all__ = ["Keep", "accept_peers", "connect", "connect_peers"]

# group (hash of its name), rank: proves that who connects means this group
_HELLO = struct.Struct("<16sI")
_HELLO_LIMIT_S = 10.0
_CONNECT_LIMIT_S = 10.0


Keep = Callable[[socket.socket], None]
"""Told of each socket as soon as there is one, so that close() can end it; raises OSError when that has come first."""


def connect(address: Address, keep: Keep) -> socket.socket:
    """Return a connection. Raises OSError."""
    family = socket.getaddrinfo(*address, type=socket.SOCK_STREAM)[0][0]
    sock = socket.socket(family, socket.SOCK_STREAM)
    keep(sock)
    sock.settimeout(_CONNECT_LIMIT_S)
    sock.connect(address)
    return sock


def connect_peers(name: str, rank: int, addresses: list[Address], keep: Keep) -> dict[int, socket.socket]:
    """Connect to every lower rank. Raises OSError."""
    found = {}
    for peer in range(rank):
        sock = connect(addresses[peer], keep)
        sock.sendall(_HELLO.pack(_key(name), rank))
        found[peer] = sock
    return found


def accept_peers(name: str, rank: int, size: int, listener: socket.socket, keep: Keep) -> dict[int, socket.socket]:
    """Accept the connection of every higher rank; blocks until all have come. Raises OSError, as when the listener is shut down."""
    found: dict[int, socket.socket] = {}
    while len(found) < size - 1 - rank:
        sock, _ = listener.accept()
        keep(sock)
        peer = _read_hello(sock, name)
        if peer is not None and rank < peer < size and peer not in found:
            found[peer] = sock
        else:
            sock.close()
    return found


def _read_hello(sock: socket.socket, name: str) -> int | None:
    """Return the rank of who has connected, None for a stranger."""
    sock.settimeout(_HELLO_LIMIT_S)
    try:
        data = sock.recv(_HELLO.size, socket.MSG_WAITALL)
    except OSError:
        return None
    if len(data) != _HELLO.size:
        return None
    key, rank = _HELLO.unpack(data)
    return int(rank) if key == _key(name) else None


def _key(name: str) -> bytes:
    return xxhash.xxh3_128_digest(name.encode())
