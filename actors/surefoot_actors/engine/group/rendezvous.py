"""Where members of a group find each other: a trainer hosts it, each member leaves its address and hears those of all.

Torch's TCPStore was tried first. A wait in it cannot be ended from outside, its timeouts fill the log with traces, and its client
sometimes took 10 s to connect on a loaded machine. Here everything is an event on a socket.
"""

from __future__ import annotations

import errno
import json
import selectors
import socket
import threading
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Address", "RendezvousHost", "ask", "listen"]

Address = tuple[str, int]

# A member says one short line.
_MOST_SAID_BYTES = 4096
_ANSWER_LIMIT_S = 2.0


def listen(host: str) -> socket.socket:
    """Return a socket that listens on an ephemeral port of `host`."""
    family = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)[0][0]
    return socket.create_server((host, 0), family=family, backlog=1024)


def ask(sock: socket.socket, group: str, rank: int, size: int, own: Address) -> list[Address]:
    """Tell the host where this rank listens, and return where all do, by rank; blocks until all have come.

    `sock` is connected to the host; shutting it down ends the wait. Raises OSError.
    """
    sock.sendall(json.dumps({"group": group, "rank": rank, "size": size, "address": own}).encode() + b"\n")
    sock.settimeout(None)
    with sock.makefile("rb") as stream:
        line = stream.readline()
    if not line.endswith(b"\n"):
        raise OSError("the member that hosts the rendezvous is gone")
    return [(str(host), int(port)) for host, port in json.loads(line)]


@dataclass(slots=True, kw_only=True)
class _Rendezvous:
    """Those of one group who have come so far, by rank."""

    size: int
    addresses: dict[int, Address] = field(default_factory=dict)
    visitors: dict[int, socket.socket] = field(default_factory=dict)


class RendezvousHost:
    """Serves on an ephemeral port of `host`, on a thread of its own, any number of groups at once."""

    def __init__(self, host: str = "127.0.0.1") -> None:
        self._listener = listen(host)
        self.address: Address = (host, int(self._listener.getsockname()[1]))
        self._rendezvous: dict[str, _Rendezvous] = {}
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ, None)
        self._thread = threading.Thread(target=self._run, name="rendezvous", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop serving; who still waits for a group to be complete is told by the end of the connection. Doubled calls do nothing."""
        try:
            self._listener.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # closed before
        self._thread.join()

    def _run(self) -> None:
        while True:
            for key, _ in self._selector.select():
                sock: Any = key.fileobj
                if sock is not self._listener:
                    self._read(sock, key.data)
                elif not self._accept():
                    self._end()
                    return

    def _accept(self) -> bool:
        try:
            visitor, _ = self._listener.accept()
        except OSError as error:
            # EINVAL: close() has shut the listener down; any other is the visitor's misfortune, or a want that passes
            return error.errno != errno.EINVAL
        visitor.setblocking(False)
        self._selector.register(visitor, selectors.EVENT_READ, bytearray())
        return True

    def _read(self, visitor: socket.socket, said: bytearray) -> None:
        """Take what a member says; one that says nonsense or leaves is forgotten."""
        if visitor.fileno() < 0:
            return  # answered earlier in the same batch of events
        try:
            data = visitor.recv(65536)
            said += data
            if len(said) > _MOST_SAID_BYTES:
                raise ValueError("more than a member has to say")
            if data and not said.endswith(b"\n"):
                return
            if data:
                self._arrive(visitor, json.loads(said))
                return
        except Exception:  # noqa: BLE001  the thread's edge: strangers may say anything, and it must outlive them
            pass
        self._forget(visitor)

    def _arrive(self, visitor: socket.socket, request: dict[str, Any]) -> None:
        name, rank = str(request["group"]), int(request["rank"])
        meeting = self._rendezvous.setdefault(name, _Rendezvous(size=int(request["size"])))
        meeting.addresses[rank], meeting.visitors[rank] = request["address"], visitor
        if len(meeting.addresses) == meeting.size:
            del self._rendezvous[name]
            answer = json.dumps([meeting.addresses[r] for r in range(meeting.size)]).encode() + b"\n"
            for waiting in meeting.visitors.values():
                self._answer(waiting, answer)

    def _answer(self, visitor: socket.socket, answer: bytes) -> None:
        self._selector.unregister(visitor)
        with visitor:
            visitor.settimeout(_ANSWER_LIMIT_S)
            try:
                visitor.sendall(answer)
            except OSError:
                pass  # it left: its peers will find out when they connect

    def _forget(self, visitor: socket.socket) -> None:
        try:
            self._selector.unregister(visitor)
        except (KeyError, ValueError):
            pass  # answered meanwhile
        visitor.close()
        for name, meeting in list(self._rendezvous.items()):
            for rank in [r for r, v in meeting.visitors.items() if v is visitor]:
                del meeting.visitors[rank], meeting.addresses[rank]
            if not meeting.visitors:
                del self._rendezvous[name]

    def _end(self) -> None:
        for key in list(self._selector.get_map().values()):
            sock: Any = key.fileobj
            sock.close()
        self._selector.close()
