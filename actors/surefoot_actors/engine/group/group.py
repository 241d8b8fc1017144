"""A generation's group: TCP between each two members for the host, NCCL for bulk on GPUs, closable at any moment from any thread.

Not gloo, which was tried first. Torch 2.13's gloo cannot wake a thread that waits in it; shutting its connections down does, but
not always: a waiter whose message was half received when the connection ended is forgotten, and hangs (seen once in some 50
lost peers, confirmed in gdb). Over plain sockets there is no such case, no thread besides the one that waits, and no memory
that a late message may still write to: bytes are received by the waiting thread alone.
"""

from __future__ import annotations

import select
import socket
import threading
from collections.abc import Sequence

import torch

from surefoot_actors.engine.group.mesh import accept_peers, connect, connect_peers
from surefoot_actors.engine.group.nccl import NcclBulk
from surefoot_actors.engine.group.peer import Count, MessageSizeError, Peer
from surefoot_actors.engine.group.rendezvous import Address, RendezvousHost, ask, listen
from surefoot_actors.engine.group.wire import Message, Tag
from surefoot_actors.engine.vector.memory import memory_of

__all__ = ["Group", "GroupClosedError", "Posted", "RendezvousHost", "UnexpectedMessageError"]


class GroupClosedError(Exception):
    """The group is closed, here or by a peer's end: the generation is over. What was under way means nothing."""


class UnexpectedMessageError(GroupClosedError):
    """A live peer sent another message than the one awaited: it is elsewhere in its code."""


class Posted:
    """Messages under way. Their tensors belong to them until the waits return; nothing moves but in waits and posts."""

    def __init__(self, group: Group) -> None:
        self._group = group
        self.sends, self.receives = Count(), Count()

    def wait_received(self) -> None:
        """Block until every receive is complete. Raises GroupClosedError."""
        self._group.progress_until(self.receives)

    def wait(self) -> None:
        """Block until every message is complete, so that tensors sent may change. Raises GroupClosedError."""
        self._group.progress_until(self.receives)
        self._group.progress_until(self.sends)


class Group:
    """The members of one generation, connected each to each. Used by one thread; `close` by any.

    `store` is the address of the RendezvousHost, `name` is unique to the generation ("g12-nonce"), `host` is the address of this
    machine that peers reach it at. Bulk tensors on `device` go by NCCL if it is a GPU.
    """

    def __init__(
        self,
        *,
        store: Address,
        name: str,
        rank: int,
        size: int,
        device: torch.device | str = "cpu",
        host: str = "127.0.0.1",
    ) -> None:
        self.name, self.rank, self.size, self.device = name, rank, size, torch.device(device)
        self._store_address, self._host = store, host
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._reason = "closed here"
        # every socket of the group, and whether a thread may be using them just now: it closes them then, else close() does
        self._sockets: list[socket.socket] = []
        self._busy = False
        self._peers: dict[int, Peer] = {}
        self._by_fd: dict[int, Peer] = {}
        self._poll = select.poll()
        self._nccl: NcclBulk | None = None
        self._scratch: dict[object, torch.Tensor] = {}

    @property
    def closed(self) -> bool:
        return self._closed.is_set()

    def form(self) -> None:
        """Connect to every other member; blocks until all have come.

        Raises GroupClosedError as soon as the group is closed, or when a peer or the store is lost meanwhile.
        """
        self._enter()
        try:
            self._connect()
        except OSError as error:
            self.close(f"the group could not be formed: {error}")
            raise GroupClosedError(self._reason) from error
        finally:
            self._leave()
        if self.device.type == "cuda":
            self._nccl = NcclBulk(self.rank, self.size, self.device, self._host, self._told_by_the_first)

    def _told_by_the_first(self, value: torch.Tensor) -> torch.Tensor:
        """Return rank 0's value, of the same size everywhere."""
        others = range(1, self.size)
        if self.rank == 0:
            self.post([Message(value, r, Tag.NCCL_STORE) for r in others], []).wait()
        else:
            self.post([], [Message(value, 0, Tag.NCCL_STORE)]).wait()
        return value

    def post(self, sends: Sequence[Message], receives: Sequence[Message]) -> Posted:
        """Begin to send and receive; messages on a GPU are complete on return. Raises GroupClosedError.

        A receive takes the sender's next message with its tag. A pair of ranks lists GPU messages in the same order.
        """
        self._enter()
        try:
            posted = Posted(self)
            for message in receives:
                if not message.tensor.is_cuda:
                    self._peers[message.peer].receive(message.tag, _memory(message.tensor), posted.receives)
            for message in sends:
                if not message.tensor.is_cuda:
                    self._peers[message.peer].send(message.tag, _memory(message.tensor), posted.sends)
            for rank in {message.peer for message in sends}:
                self._write(self._peers[rank])
            if self._nccl is not None:
                self._nccl.transfer([m for m in sends if m.tensor.is_cuda], [m for m in receives if m.tensor.is_cuda])
        except (OSError, RuntimeError) as error:
            raise self._lost(error) from error
        finally:
            self._leave()
        return posted

    def progress_until(self, count: Count) -> None:
        """Send and receive until the count is zero. Raises GroupClosedError."""
        if not count.left:
            return
        self._enter()
        try:
            while count.left:
                # Without end: close() shuts the connections down, which is an event on each.
                for fd, event in self._poll.poll():
                    peer = self._by_fd[fd]
                    if event & select.POLLOUT:
                        self._write(peer)
                    if event & ~select.POLLOUT:
                        peer.read()
        except OSError as error:
            raise self._lost(error) from error
        finally:
            self._leave()

    def scratch(self, key: object, numel: int, dtype: torch.dtype, device: torch.device | str = "cpu") -> torch.Tensor:
        """Return a buffer that belongs to this group alone and is kept under `key`, a new one when the size has changed."""
        kept = self._scratch.get(key)
        if kept is None or kept.numel() != numel or kept.dtype != dtype:
            kept = self._scratch[key] = torch.empty(numel, dtype=dtype, device=device)
        return kept

    def close(self, reason: str = "closed here") -> None:
        """Wake every thread that waits in this group with GroupClosedError, and end its connections. From any thread, any time."""
        with self._lock:
            if not self.closed:
                self._reason = reason
                self._closed.set()
                for sock in self._sockets:
                    _shut(sock)
            nccl, self._nccl = self._nccl, None
            if not self._busy:
                self._close_sockets()
        if nccl is not None:
            nccl.abort()

    # ---- one thread at a time moves bytes; the sockets are closed when it is out

    def _enter(self) -> None:
        with self._lock:
            if self.closed:
                raise GroupClosedError(self._reason)
            self._busy = True

    def _leave(self) -> None:
        with self._lock:
            self._busy = False
            if self.closed:
                self._close_sockets()

    def _close_sockets(self) -> None:
        for sock in self._sockets:
            sock.close()
        self._sockets.clear()

    def _write(self, peer: Peer) -> None:
        peer.write()
        self._poll.modify(peer.sock, select.POLLIN | (select.POLLOUT if peer.sending else 0))

    def _lost(self, error: Exception) -> GroupClosedError:
        # One connection lost is the group's end. Closing the others tells peers that wait for this rank.
        self.close(f"a peer is lost or has left: {error}")
        return (UnexpectedMessageError if isinstance(error, MessageSizeError) else GroupClosedError)(self._reason)

    # ---- forming

    def _connect(self) -> None:
        listener = listen(self._host)
        self._keep(listener)
        own = (self._host, int(listener.getsockname()[1]))
        addresses = ask(connect(self._store_address, self._keep), self.name, self.rank, self.size, own)
        connected = connect_peers(self.name, self.rank, addresses, self._keep)
        connected |= accept_peers(self.name, self.rank, self.size, listener, self._keep)
        self._peers = {rank: Peer(rank, sock) for rank, sock in connected.items()}
        self._by_fd = {peer.sock.fileno(): peer for peer in self._peers.values()}
        for fd in self._by_fd:
            self._poll.register(fd, select.POLLIN)

    def _keep(self, sock: socket.socket) -> None:
        """Let close() end this socket. Raises OSError when that has come first."""
        with self._lock:
            if self.closed:
                sock.close()
                raise OSError(self._reason)
            self._sockets.append(sock)


def _memory(tensor: torch.Tensor) -> memoryview:
    """The bytes of a contiguous tensor on the host, in place; the view keeps them alive."""
    return memory_of(tensor.detach().view(torch.uint8))


def _shut(sock: socket.socket) -> None:
    try:
        sock.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass  # the peer was faster
