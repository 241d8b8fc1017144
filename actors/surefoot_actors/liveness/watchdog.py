"""The watchdog process beside a trainer: tells the supervisor how the trainer's process is, and can end it.

Run by path (`python -I -S liveness/watchdog.py PID PIDFD MARKS_FD ATTEMPT TRAINER CRASH_FD GPU`), standard library only, so that it starts
in some 50 ms and shares nothing with the trainer that could stall it. Its standard input carries lines "server HOST PORT
SECRET": where to beat now.

To the server: "beat STATE CPU_MS ROUND SUB_TASK", "gone ROUND SUB_TASK CAUSE", "injected [WHY IT WAS REFUSED]", "system JSON".
From it: "fence" (kill the trainer), "inject KIND" (do this fault to the trainer, or to its node).

It watches the trainer by a pidfd, and is no child of it: Ray kills a worker's children as that exits, and the last word
would go with them. PR_SET_PDEATHSIG is not used: that signal is bound to the *thread* that started the watchdog.
"""

from __future__ import annotations

import hmac
import os
import select
import signal
import socket
import struct
import sys
import threading
import time
from typing import NamedTuple

BEAT_S = 0.1
CONNECT_S = 1.0
# Unacknowledged bytes for so long: the supervisor's node is gone, connect anew.
UNHEARD_MS = 5000
TICKS = os.sysconf("SC_CLK_TCK")
MARKS = struct.Struct("qq")
# Of the flags in /proc/PID/stat.
PF_EXITING = 4
# What Python's faulthandler calls the signals that a process brings on itself, where the trainer has it write to CRASH_FD.
SIGNALS = {
    "Bus error": "SIGBUS",
    "Segmentation fault": "SIGSEGV",
    "Floating-point exception": "SIGFPE",
    "Illegal instruction": "SIGILL",
    "Aborted": "SIGABRT",
}
# How far back the count of the kernel's kills for memory is remembered, so that an old kill explains no new death.
OOM_WINDOW_S = 5.0


class Server(NamedTuple):
    host: str
    port: int
    secret: bytes


def proof(secret: bytes, *words: str) -> str:
    """The mac over `words` that shows knowledge of `secret`. The server computes the same."""
    return hmac.new(secret, " ".join(words).encode(), "sha256").hexdigest()


def read(path: str) -> str:
    """A small file's text; empty where there is none."""
    try:
        with open(path) as file:
            return file.read()
    except OSError:
        return ""


def crash(said: str) -> str:
    """What faulthandler wrote, in a word: "SIGBUS@train.py:12"; empty: nothing that is known."""
    name = next((name for told, name in SIGNALS.items() if f"Fatal Python error: {told}" in said), "")
    lines = [line.split('"') for line in said.splitlines() if line.startswith("  File ") and line.count('"') == 2]
    places = [(path, rest.split()[2]) for _, path, rest in lines if rest.startswith(", line ")]
    own = [place for place in places if "/site-packages/" not in place[0] and "/lib/python" not in place[0]]
    for path, number in (own or places)[:1] if name else ():
        return f"{name}@{os.path.basename(path).replace(' ', '_')}:{number}"
    return name


class Process:
    """A process, by a handle that never means another one."""

    def __init__(self, pid: int, pidfd: int = -1) -> None:
        self.pid, self.pidfd = pid, pidfd
        if pidfd < 0:
            try:
                self.pidfd = os.pidfd_open(pid)
            except ProcessLookupError:
                pass

    def dead(self) -> bool:
        if self.pidfd < 0:
            return True
        poller = select.poll()
        poller.register(self.pidfd, select.POLLIN)
        return bool(poller.poll(0))

    def signal(self, number: int) -> None:
        try:
            signal.pidfd_send_signal(self.pidfd, number)
        except ProcessLookupError:
            pass


class Memory:
    """The kernel's kills for memory where a process runs: its cgroup's count, now and a while ago."""

    def __init__(self, pid: int) -> None:
        self._path = self._find(pid)
        self._old = self._new = self._count()
        self._due = time.monotonic() + OOM_WINDOW_S

    @staticmethod
    def _find(pid: int) -> str:
        for line in read(f"/proc/{pid}/cgroup").splitlines():
            _, controllers, path = line.split(":", 2)
            root, name = "/sys/fs/cgroup", "memory.events"
            if controllers == "memory":
                root, name = "/sys/fs/cgroup/memory", "memory.oom_control"
            elif controllers:
                continue
            # in a container the path may be the host's, of which only the end is to be seen, at the root
            for found in (f"{root}{path.rstrip('/')}/{name}", f"{root}/{name}"):
                if "oom_kill " in read(found):
                    return found
        return ""

    def _count(self) -> int:
        for line in read(self._path).splitlines():
            if line.startswith("oom_kill "):
                return int(line.split()[1])
        return 0

    def look(self) -> None:
        """Remember the count, now and then."""
        if time.monotonic() >= self._due:
            self._due = time.monotonic() + OOM_WINDOW_S
            self._old, self._new = self._new, self._count()

    def struck(self) -> bool:
        """Whether there was a kill lately."""
        return self._count() > self._old


class Node:
    """The raylet under which a process runs, if it does."""

    def __init__(self, pid: int) -> None:
        self.raylet: Process | None = None
        while pid > 1 and self.raylet is None:
            name, _, rest = read(f"/proc/{pid}/stat").rpartition(")")
            if name.endswith("(raylet"):
                self.raylet = Process(pid)
            pid = int(rest.split()[1]) if rest else 0

    def died(self) -> bool:
        """Whether the raylet is dead or about to be: workers see its sockets close before it is quite gone."""
        if self.raylet is None or self.raylet.dead():
            return self.raylet is not None
        fields = read(f"/proc/{self.raylet.pid}/stat").rpartition(")")[2].split()
        return not fields or bool(int(fields[6]) & PF_EXITING)

    def kill(self) -> str:
        """Kill the raylet. Returns why not, or nothing."""
        if self.raylet is None:
            return "its process runs under no raylet"
        if "--head" in read(f"/proc/{self.raylet.pid}/cmdline").split("\0"):
            return "it runs on the head's node"
        self.raylet.signal(signal.SIGKILL)
        return ""


class Parent(Process):
    """The trainer's process."""

    def __init__(self, pid: int, pidfd: int, marks_fd: int, crash_fd: int = -1) -> None:
        super().__init__(pid, pidfd)
        self._marks_fd, self._crash_fd = marks_fd, crash_fd
        self._memory, self._node = Memory(pid), Node(pid)

    def inject(self, fault: str) -> str:
        """Do it. Returns why not, or nothing."""
        match fault:
            case "trainer":
                self.signal(signal.SIGKILL)
            case "freeze":
                self.signal(signal.SIGSTOP)
            case "node":
                return self._node.kill()
            case _:
                return f"a watchdog knows no fault {fault!r}"
        return ""

    def marks(self) -> str:
        round_, sub_task = -1, -1
        if self._marks_fd >= 0:
            round_, sub_task = MARKS.unpack(os.pread(self._marks_fd, MARKS.size, 0))
        return f"{round_} {sub_task}"

    def end(self) -> str:
        """ "gone ROUND SUB_TASK CAUSE" """
        crashed = crash(os.pread(self._crash_fd, 8192, 0).decode(errors="replace")) if self._crash_fd >= 0 else ""
        cause = "node" if self._node.died() else "oom" if self._memory.struck() else crashed or "-"
        return f"gone {self.marks()} {cause}"

    def beat(self) -> str:
        """ "beat STATE CPU_MS ROUND SUB_TASK" """
        with open(f"/proc/{self.pid}/stat") as file:
            fields = file.read().rpartition(")")[2].split()
        cpu_ms = (int(fields[11]) + int(fields[12])) * 1000 // TICKS
        self._memory.look()
        return f"beat {fields[0]} {cpu_ms} {self.marks()}"


class Link:
    """The connection to the liveness server, made anew whenever it is lost."""

    def __init__(self, attempt: str, trainer: str, pid: int, role: str = "helper") -> None:
        """`role`: what comes over it; "helper": beats."""
        self._names, self._role = (attempt, trainer, str(pid)), role
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
        word = "hello" if self._role == "helper" else self._role
        self.send(" ".join((word, *self._names, ours, proof(secret, self._role, theirs, ours, *self._names))))
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
        self._buffer += data
        return self.pending()

    def pending(self) -> list[str]:
        """Lines that came together with others, behind the welcome say."""
        *lines, self._buffer = self._buffer.split(b"\n")
        return [line.decode() for line in lines]

    def drop(self) -> None:
        if self.sock is not None:
            self.sock.close()
        self.sock, self._buffer = None, b""


class Watchdog:
    """The loop: one beat every BEAT_S, orders as they come, until the trainer is gone."""

    def __init__(self, parent: Parent, link: Link) -> None:
        self._parent, self._link = parent, link
        self._stdin: bytes | None = b""
        # a sample that is not sent yet: of several the newest
        self.sample = ""

    def run(self) -> None:
        due = time.monotonic()
        while not self._parent.dead():
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
        sample, self.sample = self.sample, ""
        if sample:
            self._link.send(f"system {sample}")

    def _wait(self, seconds: float) -> None:
        self._obey(self._link.pending())
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
        for order in orders:
            match order.split():
                case ["fence"]:
                    self._parent.signal(signal.SIGKILL)
                case ["inject", fault]:
                    self._link.send(f"injected {self._parent.inject(fault)}")

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
        self._link.send(self._parent.end())
        self._link.drop()


def measure(watchdog: Watchdog, pid: int, marks_fd: int, has_gpu: bool) -> None:
    """Take samples of what the trainer uses, on a thread of their own: no beat waits for a file, or for a GPU's driver."""
    # behind the standard library's: nothing that is installed beside Surefoot can stand in its way
    sys.path.append(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))
    from surefoot_actors.system_metrics.sampler import sample_for_ever

    sample_for_ever(pid, marks_fd, MARKS.size, has_gpu=has_gpu, tell=lambda told: setattr(watchdog, "sample", told))


def main(argv: list[str]) -> None:
    if os.fork():
        os._exit(0)
    pid, pidfd, marks_fd = map(int, argv[1:4])
    watchdog = Watchdog(Parent(pid, pidfd, marks_fd, int(argv[6])), Link(argv[4], argv[5], pid))
    if marks_fd >= 0:
        threading.Thread(target=measure, args=(watchdog, pid, marks_fd, argv[7] == "gpu"), daemon=True).start()
    watchdog.run()


if __name__ == "__main__":
    main(sys.argv)
