"""The collector process beside a trainer: reads what that prints, and ships it to the supervisor, whatever becomes of the trainer.

Run as `python -I -S -c ... PID PIDFD OUT_FD ERR_FD STEP_FD LIFE_FD ATTEMPT NAME LOST`, by the standard library alone. It reads the pipes
that are the trainer's standard output and error, so that neither the trainer's interpreter lock nor its death stands between a line and
the control plane. Its standard input carries lines "server HOST PORT SECRET" (where to ship to now) and "hide HEX" (a value to be masked).

To the supervisor: "frame SOURCE FIRST COUNT BYTES TEXT_BYTES" and the frame's bytes, which are TEXT_BYTES once unpacked; "over": the
process has ended, and all of it is stored.
From it: "stored SOURCE BELOW": lines with lower numbers are stored for good.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import struct
import sys
import threading
import time

from surefoot_actors.liveness.watchdog import Link, Process, Server
from surefoot_actors.logs.folding import Folder
from surefoot_actors.logs.frames import FRAME_BYTES, LOST, Frame, Frames
from surefoot_actors.masking import Masking

__all__ = ["CHUNK_BYTES", "PASSES", "STEP", "Collector", "main"]

# what a trainer's memory says of its step
STEP = struct.Struct("q")
# and, after it, how often its collector has looked for something to read
PASSES = struct.Struct("q")
CHUNK_BYTES = 256 * 1024
# Between reads, so that a process which prints line by line wakes this one ten times a second, not ten thousand times; and shorter
# where pipes were not nearly empty.
_REST_S, _SHORT_REST_S = 0.1, 0.02
# Of processes that want a core at once, those that train come first: this one needs a hundredth of one, and pipes give it time.
_NICE = 10
# lines wait for others so long at most
_FRAME_S = 0.5
# a line without an end is shipped as it is once nothing more has come of it for so long
_QUIET_S = 5.0
# frames on their way at a time: what the supervisor may have to hold of one process
_WINDOW_BYTES = 1024 * 1024
_RETRY_S = 0.3
# how long what a dead process printed is kept for a supervisor that does not come
_PATIENCE_S = 600.0


class Shipper:
    """Sends frames until they are stored, on a thread of its own: what is printed is read meanwhile."""

    def __init__(self, source: str, link: Link, frames: Frames) -> None:
        self._source, self._link, self._frames = source, link, frames
        self.lock = threading.Lock()
        self.changed = threading.Event()
        self._over = threading.Event()
        self._server: Server | None = None
        self.has_server = False
        # frames with lower numbers are sent over the present connection
        self._sent = 0
        threading.Thread(target=self._run, name="ship", daemon=True).start()

    def ship_to(self, server: Server) -> None:
        with self.lock:
            self._server = server
        self.has_server = True
        self.changed.set()

    def finish(self) -> None:
        """Return when all is stored, or nobody has taken it for too long."""
        end = time.monotonic() + _PATIENCE_S
        while not self._frames.empty and time.monotonic() < end:
            self._over.wait(0.05)
        if self._frames.empty:
            self._link.send("over")

    def _run(self) -> None:
        while True:
            if self._link.sock is None or self._server is not None:
                self._connect()
            if self._link.sock is None:
                self.changed.wait(_RETRY_S)
                self.changed.clear()
                continue
            self._send_new()
            self._wait()

    def _connect(self) -> None:
        with self.lock:
            if self._server is not None:
                self._link.server, self._server = self._server, None
        self._link.connect()
        self._sent = 0

    def _send_new(self) -> None:
        with self.lock:
            frames = self._frames.waiting
        room = _WINDOW_BYTES
        for frame in frames:
            room -= len(frame.content)
            if room < 0 and frame is not frames[0]:
                return
            if frame.first >= self._sent and self._link.sock is not None:
                self._send(frame)

    def _send(self, frame: Frame) -> None:
        sizes = f"{frame.lines} {len(frame.content)} {frame.text_bytes}"
        head = f"frame {self._source} {frame.first} {sizes}\n".encode()
        assert self._link.sock is not None
        try:
            self._link.sock.sendall(head + frame.content)
        except OSError:
            self._link.drop()
        else:
            self._sent = frame.end

    def _wait(self) -> None:
        """Wait for an answer or for something to send."""
        sock = self._link.sock
        if sock is None:
            return
        poller = select.poll()
        poller.register(sock, select.POLLIN)
        if poller.poll(100):
            for word in self._link.orders():
                match word.split():
                    case ["stored", source, below] if source == self._source:
                        with self.lock:
                            self._frames.stored(int(below))


class Collector:
    """Reads, folds, masks and frames, until the process has ended and all of it is shipped."""

    def __init__(self, process: Process, pipes: dict[int, str], step_fd: int, name: str, link: Link, lost: int) -> None:
        """`lost`: bytes that a collector before this one left unread in vain."""
        self._process, self._step_fd = process, step_fd
        self._pipes = {fd: (stream, Folder(self._masked)) for fd, stream in pipes.items()}
        self._heard = dict.fromkeys(pipes, time.monotonic())
        self._frames = Frames()
        self._shipper = Shipper(f"{name}-{os.urandom(4).hex()}", link, self._frames)
        self._stdin: bytes | None = b""
        self._hidden: list[str] = []
        self._masking = Masking(())
        # the step that was under way when a pipe was seen empty: what comes later is of it, or of a later one
        self._floor = -1
        self._opened: float | None = None
        self._passes = 0
        self._little = min(fcntl.fcntl(fd, fcntl.F_GETPIPE_SZ) for fd in pipes) // 8
        for fd in pipes:
            os.set_blocking(fd, False)
        if lost:
            self._say(f"about {lost} bytes were lost: they were not read in time")

    def run(self) -> None:
        """Collect to the end."""
        self._begin()
        while self._pipes and not self._process.dead():
            self._wait()
            step = self._step()
            size = self._read()
            if size < CHUNK_BYTES:
                self._floor = step
                time.sleep(_REST_S if size < self._little else _SHORT_REST_S)
            self._close_when_due()
        while self._read():
            pass
        self._end()

    def _begin(self) -> None:
        """Read nothing before it is known what is to be masked: it is told before the server is."""
        while self._stdin is not None and not self._shipper.has_server and not self._process.dead():
            select.select([0, self._process.pidfd], [], [])
            self._take_stdin()

    def _wait(self) -> None:
        poller = select.poll()
        for fd in (self._process.pidfd, *self._pipes):
            poller.register(fd, select.POLLIN)
        if self._stdin is not None:
            poller.register(0, select.POLLIN)
        poller.poll(100 if self._opened is not None else 200)

    def _read(self) -> int:
        """Read what is there, once from each pipe; return how many bytes that was."""
        self._passes += 1
        os.pwrite(self._step_fd, PASSES.pack(self._passes), STEP.size)
        found = [(fd, data) for fd in tuple(self._pipes) if (data := self._take(fd)) is not None]
        # After the pipes: what was to be hidden before something was printed is known by the time that this is read.
        self._take_stdin()
        for fd, data in found:
            stream, folder = self._pipes[fd]
            for step, text in folder.feed(data, self._floor):
                self._add(text, step, stream)
        return sum(len(data) for _, data in found)

    def _take(self, fd: int) -> bytes | None:
        try:
            data = os.read(fd, CHUNK_BYTES)
        except BlockingIOError:
            if self._pipes[fd][1].waiting and time.monotonic() - self._heard[fd] > _QUIET_S:
                self._flush(fd)
            return None
        self._heard[fd] = time.monotonic()
        if not data:  # nobody has the other end any more
            self._flush(fd)
            del self._pipes[fd]
            return None
        return data

    def _flush(self, fd: int) -> None:
        stream, folder = self._pipes[fd]
        for step, text in folder.flush(self._floor):
            self._add(text, step, stream)

    def _add(self, text: str, step: int, stream: str) -> None:
        with self._shipper.lock:
            self._frames.add(text, at_ms=time.time_ns() // 1_000_000, step=step, stream=stream)
            if self._frames.open_bytes >= FRAME_BYTES:
                self._frames.close()
        if self._opened is None:
            self._opened = time.monotonic()

    def _masked(self, text: str) -> str:
        return self._masking.text(text)

    def _say(self, sentence: str) -> None:
        self._add(f"{sentence}\n", self._step(), LOST)

    def _close_when_due(self, *, now: bool = False) -> None:
        if self._opened is not None and (now or time.monotonic() - self._opened >= _FRAME_S):
            self._opened = None
            with self._shipper.lock:
                self._frames.close()
            self._shipper.changed.set()

    def _end(self) -> None:
        for fd in tuple(self._pipes):
            self._flush(fd)
        self._say("the process has ended")
        self._close_when_due(now=True)
        self._shipper.finish()

    def _step(self) -> int:
        return int(STEP.unpack(os.pread(self._step_fd, STEP.size, 0))[0])

    def _take_stdin(self) -> None:
        if self._stdin is None or not select.select([0], [], [], 0)[0]:
            return
        data = os.read(0, 65536)
        if not data:
            self._stdin = None
            return
        *lines, self._stdin = (self._stdin + data).split(b"\n")
        for line in lines:
            match line.decode().split(" "):
                case ["server", host, port, secret]:
                    self._shipper.ship_to(Server(host, int(port), secret.encode()))
                case ["hide", value]:
                    self._hidden.append(bytes.fromhex(value).decode())
                    self._masking = Masking(self._hidden)


def main(argv: list[str]) -> None:
    """Be a collector: see the module."""
    if os.fork():
        os._exit(0)
    pid, pidfd, out, err, step_fd, life = map(int, argv[1:7])
    # who died before this one began to read has said something, too
    with contextlib.suppress(BrokenPipeError):
        os.write(life, b"%d" % os.getpid())
    os.nice(_NICE)
    attempt, name = argv[7:9]
    link = Link(attempt, name, pid, "logs")
    Collector(Process(pid, pidfd), {out: "stdout", err: "stderr"}, step_fd, name, link, int(argv[9])).run()


if __name__ == "__main__":
    main(sys.argv)
