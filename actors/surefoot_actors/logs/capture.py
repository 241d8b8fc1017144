"""The printing process's side: its standard output and error become pipes, which a collector process reads.

A pipe that nobody reads would stop whoever prints, and one without a reader would end it by SIGPIPE. So this process holds the reading
ends as well; a collector that has ended is started anew, and one that does not read is replaced, with a line that says what was lost.
"""

from __future__ import annotations

import contextlib
import fcntl
import io
import mmap
import os
import select
import signal
import struct
import subprocess
import sys
import termios
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from typing_extensions import Buffer

import surefoot_actors
from surefoot_actors.liveness.watchdog_process import Watched
from surefoot_actors.logs.collector import CHUNK_BYTES, PASSES, STEP
from surefoot_actors.logs.folding import step_mark
from surefoot_actors.sealed import Sealed

__all__ = ["Capture", "Printing", "begin_step", "hide"]

# As much as an unprivileged process may have in a pipe.
_PIPE_BYTES = 1024 * 1024
# A collector is replaced that has not read at so many looks in a row, so far apart, while a pipe may be full.
_LOOKS, _LOOK_S = 3, 0.5
_PAGE_BYTES = 4096
_RESTART_S = 1.0
_RUN = "import sys; sys.path.append({!r}); from surefoot_actors.logs.collector import main; main(sys.argv)"

_step: mmap.mmap | None = None
_capture: Capture | None = None
# standard output and error
_marking: list[_Marking] = []


def begin_step(step: int) -> None:
    """Note that what is printed from here on is of this step. Without a capture this does nothing."""
    if _step is not None:
        STEP.pack_into(_step, 0, step)
        _look()


def hide(values: Iterable[str]) -> bool:
    """Have these values masked in all that is printed from here on. False: there is no capture that could."""
    if _capture is not None:
        _capture.hide(values)
    return _capture is not None


@dataclass(frozen=True, slots=True)
class Printing:
    """A process that is no trainer, named for a Capture: see `Watched`."""

    attempt: str
    trainer: str
    liveness: tuple[str, int]


class Capture:
    """What this process prints, and what all that it starts prints: shipped from `start` on. One a process."""

    def __init__(self, setup: Watched, secret: Sealed, hidden: Iterable[str] = ()) -> None:
        """`setup` names the process and the server that its lines go to; `secret` is that server's."""
        self._setup, self._server = setup, (setup.liveness, secret)
        self._hidden = list(hidden)
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._life = -1
        self._pipes: tuple[int, int] = (-1, -1)
        self._step_fd = -1
        self._ended = threading.Event()

    def start(self) -> None:
        """Put pipes in the places of standard output and error, and start the collector."""
        global _step, _capture
        self._step_fd = os.memfd_create("surefoot-step")
        os.ftruncate(self._step_fd, STEP.size + PASSES.size)
        self._shared = mmap.mmap(self._step_fd, STEP.size + PASSES.size)
        _step, _capture = self._shared, self
        begin_step(-1)
        out, err = _pipe(), _pipe()
        self._pipes = out[0], err[0]
        self._start(0)
        os.register_at_fork(after_in_child=_look)
        sys.stdout.flush()
        sys.stderr.flush()
        for (_, writing), number in ((out, 1), (err, 2)):
            os.dup2(writing, number)
            os.close(writing)
        sys.stdout = sys.__stdout__ = _text(1)  # type: ignore[misc]
        sys.stderr = sys.__stderr__ = _text(2)  # type: ignore[misc]
        threading.Thread(target=self._keep, name="log-collector", daemon=True).start()

    def tell(self, address: tuple[str, int], secret: str) -> None:
        """Ship to another server from now on: a restarted supervisor's."""
        with self._lock:
            self._server = (address, Sealed(secret))
            self._tell_server()

    def hide(self, values: Iterable[str]) -> None:
        """Have these values masked from now on."""
        with self._lock:
            new = list(values)
            self._hidden += new
            self._write("".join(f"hide {value.encode().hex()}\n" for value in new))

    def end(self) -> None:
        """Print no more: what was printed is shipped, and the collector ends, the last one."""
        self._ended.set()
        for name in ("stdout", "stderr"):
            # training code may have closed it, or put in its place what has no `flush`
            with contextlib.suppress(Exception):
                getattr(sys, name).flush()
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for number in (1, 2):
            os.dup2(nowhere, number)
        os.close(nowhere)

    def _start(self, lost: int) -> None:
        self._life, theirs = os.pipe()
        pidfd = os.pidfd_open(os.getpid())
        passed = [pidfd, *self._pipes, self._step_fd, theirs]
        root = str(Path(surefoot_actors.__file__).parents[1])
        numbers = [str(os.getpid()), *map(str, passed)]
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", "-c", _RUN.format(root), *numbers,
                 self._setup.attempt, self._setup.trainer, str(lost)],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=passed,
                start_new_session=True,  # what ends the trainer's process group must not take its last words with it
                cwd="/",
            )  # fmt: skip
        finally:
            for number in (pidfd, theirs):
                os.close(number)
        # what is to be masked comes first: the collector reads nothing before it knows the server
        self._write("".join(f"hide {value.encode().hex()}\n" for value in self._hidden))
        self._tell_server()

    def _tell_server(self) -> None:
        (host, port), secret = self._server
        self._write(f"server {host} {port} {secret.reveal()}\n")

    def _write(self, lines: str) -> None:
        """Tell the collector; one that has ended is told by its successor's start."""
        if self._process is None or self._process.stdin is None:
            return
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(lines.encode())
            self._process.stdin.flush()

    # ---- the thread that keeps the pipes read

    def _keep(self) -> None:
        while True:
            lost = self._watch()
            if self._ended.wait(_RESTART_S):
                return
            lost += self._drain()
            with self._lock:
                self._close()
                try:
                    self._start(lost)
                except OSError:
                    self._process = None  # no process to be had: read, and tried again

    def _watch(self) -> int:
        """Return when the collector has ended, or does not read and was ended; and how many bytes were thrown away."""
        if self._process is None:
            return 0
        self._process.wait()  # it has detached itself
        pid = os.read(self._life, 20)
        if not pid:
            return 0
        passes, idle, poller = -1, 0, select.poll()
        poller.register(self._life, select.POLLIN)
        while not poller.poll(_LOOK_S * 1000):
            before, passes = passes, PASSES.unpack_from(self._shared, STEP.size)[0]
            idle = idle + 1 if passes == before and any(map(_may_be_full, self._pipes)) else 0
            if idle >= _LOOKS:
                os.kill(int(pid), signal.SIGKILL)  # its end of the pipe is open: it is still this one
                poller.poll()
                return self._drain()
        return 0

    def _drain(self) -> int:
        """Throw away what is in pipes that may be full."""
        return sum(len(os.read(fd, CHUNK_BYTES)) for fd in self._pipes if _may_be_full(fd))

    def _close(self) -> None:
        if self._life >= 0:
            os.close(self._life)
            self._life = -1
        if self._process is not None and self._process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.close()


class _Marking(io.FileIO):
    """A file descriptor of text; what is written first in a step has the step's mark before it.

    A program may print ten thousand lines in a second: so once a step is marked, its text does not come through Python any more. In a
    process that was forked nobody says that a step begins: there each write looks.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number, "w", closefd=False)
        self._marked, self._process = -1, os.getpid()

    def look(self) -> None:
        """Have the next write look at the step."""
        self.__dict__.pop("write", None)

    def write(self, data: Buffer, /) -> int:
        step = _present_step()
        if step == self._marked or step < 0:
            if self._process == os.getpid():
                self.write = super().write  # type: ignore[method-assign]
                if _present_step() != step:  # another thread has begun one meanwhile
                    self.look()
            return super().write(data) or 0
        self._marked = step
        # together with the text, or another process's may come between them
        if memoryview(data).nbytes < select.PIPE_BUF - 64:
            mark = step_mark(step)
            return max(0, os.write(self.fileno(), mark + bytes(data)) - len(mark))
        os.write(self.fileno(), step_mark(step))
        return super().write(data) or 0


def _present_step() -> int:
    return int(STEP.unpack_from(_step, 0)[0]) if _step is not None else -1


def _look() -> None:
    for file in _marking:
        file.look()


def _text(number: int) -> io.TextIOWrapper:
    """A text file that writes line by line: what a process has printed before it is killed is printed."""
    raw = _Marking(number)
    _marking.append(raw)
    errors = "backslashreplace"
    return io.TextIOWrapper(io.BufferedWriter(raw), encoding="utf-8", errors=errors, line_buffering=True)


def _pipe() -> tuple[int, int]:
    reading, writing = os.pipe()
    with contextlib.suppress(OSError):  # as large as it may be
        fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
    return reading, writing


def _filled(fd: int) -> int:
    """How many bytes are in a pipe."""
    answer: int = struct.unpack("i", fcntl.ioctl(fd, termios.FIONREAD, b"\0" * 4))[0]
    return answer


def _may_be_full(fd: int) -> bool:
    """Whether a write to a pipe may have to wait. Each write may take a page of its own, unless it fits into the last one's."""
    return _filled(fd) > max(0, fcntl.fcntl(fd, fcntl.F_GETPIPE_SZ) // 2 - _PAGE_BYTES)
