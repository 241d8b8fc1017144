"""The helper process beside a trainer: tells the supervisor how the trainer's process is, and can end it.

Run by path (`python -I -S pulse_helper.py PID MARKS_FD ATTEMPT TRAINER`), standard library only, so that it starts in
some 50 ms and shares nothing with the trainer that could stall it. Its standard input carries lines "server HOST PORT
SECRET": where to beat now.

It watches the trainer by a pidfd, with the parent's pid as a second opinion. PR_SET_PDEATHSIG is not used: that signal
is bound to the *thread* that started the helper, not to the process.
"""

from __future__ import annotations

import hmac
import os
import select
import signal
import socket
import struct
import sys
import time
from typing import NamedTuple

BEAT_S = 0.1
CONNECT_S = 1.0
# Unacknowledged bytes for so long: the supervisor's node is gone, connect anew.
UNHEARD_MS = 5000
TICKS = os.sysconf("SC_CLK_TCK")
MARKS = struct.Struct("qq")


class Server(NamedTuple):
    host: str
    port: int
    secret: bytes


def proof(secret: bytes, *words: str) -> str:
    """The mac over `words` that shows knowledge of `secret`. The server computes the same."""
    return hmac.new(secret, " ".join(words).encode(), "sha256").hexdigest()


class Parent:
    """The trainer's process."""

    def __init__(self, pid: int, marks_fd: int) -> None:
        self.pid = pid
        self._marks_fd = marks_fd
        try:
            self.pidfd = os.pidfd_open(pid)
        except ProcessLookupError:
            self.pidfd = -1

    def gone(self) -> bool:
        if self.pidfd < 0 or os.getppid() != self.pid:
            return True
        poller = select.poll()
        poller.register(self.pidfd, select.POLLIN)
        return bool(poller.poll(0))

    def kill(self) -> None:
        try:
            signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)
        except ProcessLookupError:
            pass

    def beat(self) -> str:
        """ "beat STATE CPU_MS ROUND SUB_TASK" """
        with open(f"/proc/{self.pid}/stat") as file:
            fields = file.read().rpartition(")")[2].split()
        cpu_ms = (int(fields[11]) + int(fields[12])) * 1000 // TICKS
        round_, sub_task = -1, -1
        if self._marks_fd >= 0:
            round_, sub_task = MARKS.unpack(os.pread(self._marks_fd, MARKS.size, 0))
        return f"beat {fields[0]} {cpu_ms} {round_} {sub_task}"


class Link:
    """The connection to the pulse server, made anew whenever it is lost."""

    def __init__(self, attempt: str, trainer: str, pid: int) -> None:
        self._names = (attempt, trainer, str(pid))
        self.server: Server | None = None
        self.sock: socket.socket | None = None
        self._buffer = b""

    def connect(self) -> None:
        """Connect and prove both ends; leaves `sock` None where that failed."""
        self.drop()
        if self.server is None:
            return
        try:
            sock = socket.create_connection((self.server.host, self.server.port), timeout=CONNECT_S)
        except OSError:
            return
        self.sock = sock
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNHEARD_MS)
        try:
            proven = self._shake(sock, self.server.secret)
        except (OSError, ValueError):
            proven = False
        if not proven:
            self.drop()

    def _shake(self, sock: socket.socket, secret: bytes) -> bool:
        theirs = self._line(sock).removeprefix("challenge ")
        ours = os.urandom(16).hex()
        self.send(" ".join(("hello", *self._names, ours, proof(secret, "helper", theirs, ours, *self._names))))
        return hmac.compare_digest(self._line(sock), "welcome " + proof(secret, "server", ours, theirs))

    def _line(self, sock: socket.socket) -> str:
        while b"\n" not in self._buffer:
            data = sock.recv(1024)
            if not data or len(self._buffer) > 4096:
                raise ValueError("the server hung up or talks nonsense")
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line.decode()

    def send(self, line: str) -> None:
        """Send a line; a connection that cannot take it at once is as good as lost."""
        if self.sock is not None:
            try:
                self.sock.sendall(line.encode() + b"\n")
            except OSError:
                self.drop()

    def orders(self) -> list[str]:
        """Lines that have come; drops the connection where it has ended."""
        assert self.sock is not None
        try:
            data = self.sock.recv(1024)
        except OSError:
            data = b""
        if not data:
            self.drop()
            return []
        *lines, self._buffer = (self._buffer + data).split(b"\n")
        return [line.decode() for line in lines]

    def drop(self) -> None:
        if self.sock is not None:
            self.sock.close()
        self.sock, self._buffer = None, b""


class Helper:
    """The loop: one beat every BEAT_S, orders as they come, until the trainer is gone."""

    def __init__(self, parent: Parent, link: Link) -> None:
        self._parent, self._link = parent, link
        self._stdin: bytes | None = b""

    def run(self) -> None:
        due = time.monotonic()
        while not self._parent.gone():
            now = time.monotonic()
            if now >= due:
                due = now + BEAT_S
                self._beat()
            self._wait(max(0.0, due - time.monotonic()))
        self._say_gone()

    def _beat(self) -> None:
        if self._link.sock is None:
            self._link.connect()
        try:
            self._link.send(self._parent.beat())
        except OSError:
            pass  # the process has just gone: the loop sees it

    def _wait(self, seconds: float) -> None:
        poller = select.poll()
        poller.register(self._parent.pidfd, select.POLLIN)
        if self._stdin is not None:
            poller.register(0, select.POLLIN)
        sock = self._link.sock
        if sock is not None:
            poller.register(sock, select.POLLIN)
        for number, _ in poller.poll(seconds * 1000):
            if number == 0:
                self._take_stdin()
            elif sock is not None and sock is self._link.sock and number == sock.fileno():
                self._obey(self._link.orders())

    def _obey(self, orders: list[str]) -> None:
        if "fence" in orders:
            self._parent.kill()

    def _take_stdin(self) -> None:
        data = os.read(0, 4096)
        if not data or self._stdin is None:
            self._stdin = None
            return
        *lines, self._stdin = (self._stdin + data).split(b"\n")
        for line in lines:
            _, host, port, secret = line.decode().split(" ")
            self._link.server = Server(host, int(port), secret.encode())
            self._link.connect()

    def _say_gone(self) -> None:
        if self._link.sock is None:
            self._link.connect()
        self._link.send("gone")
        self._link.drop()


def main(argv: list[str]) -> None:
    pid, marks_fd, attempt, trainer = int(argv[1]), int(argv[2]), argv[3], argv[4]
    Helper(Parent(pid, marks_fd), Link(attempt, trainer, pid)).run()


if __name__ == "__main__":
    main(sys.argv)
