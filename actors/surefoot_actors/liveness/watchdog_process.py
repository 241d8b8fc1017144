"""The trainer's side of liveness: keeps its watchdog process, and marks the sub-task last started."""

from __future__ import annotations

import faulthandler
import mmap
import os
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from surefoot.spec import JobSpec
from surefoot_actors.liveness.watchdog import MARKS
from surefoot_actors.sealed import Sealed
from surefoot_actors.system_metrics import counters

__all__ = ["Watchdog", "mark", "start_watchdog"]

# A watchdog that ended so soon after its start is not started anew at once.
RESTART_S = 1.0
_SCRIPT = Path(__file__).with_name("watchdog.py")

_marks: mmap.mmap | None = None


class Watched(Protocol):
    """Who is watched, and by whom: what of a trainer's setup the watchdog needs."""

    @property
    def attempt(self) -> str: ...

    @property
    def trainer(self) -> str: ...

    @property
    def liveness(self) -> tuple[str, int]:
        """Host and port of the supervisor's liveness server."""


class WatchedTrainer(Watched, Protocol):
    """A trainer that is watched."""

    @property
    def spec(self) -> JobSpec:
        """The job: whether its trainers have a GPU."""


def mark(round_: int, sub_task: int) -> None:
    """Note that a sub-task starts here: the watchdog tells it. Without a watchdog this does nothing."""
    if _marks is not None:
        MARKS.pack_into(_marks, 0, round_, sub_task)


@dataclass(frozen=True, slots=True)
class _Process:
    """A watchdog process: it detaches itself, so what ties it to us are pipes."""

    launched: subprocess.Popen[bytes]
    # a pipe whose other end the watchdog alone has
    life: int

    def tell(self, address: tuple[str, int], secret: Sealed) -> None:
        """Tell it where to beat from now on. One that has ended is not told."""
        assert self.launched.stdin is not None
        try:
            self.launched.stdin.write(f"server {address[0]} {address[1]} {secret.reveal()}\n".encode())
            self.launched.stdin.flush()
        except BrokenPipeError:
            pass

    def wait(self) -> None:
        """Return when it has ended."""
        self.launched.wait()
        os.read(self.life, 1)

    def close(self) -> None:
        os.close(self.life)
        assert self.launched.stdin is not None
        self.launched.stdin.close()


def start_watchdog(setup: WatchedTrainer, secret: Sealed, pid: int, marks_fd: int = -1, crash_fd: int = -1) -> _Process:
    """Start the watchdog process of this process, `pid`, and tell it where to beat.

    In a session of its own: what stops or ends the trainer's process group must not take the witness with it.
    """
    for name in (setup.attempt, setup.trainer):
        if not name or " " in name or "\n" in name:
            raise ValueError(f"{name!r} cannot name a trainer or an attempt: it is empty or has a space in it")
    life, theirs = os.pipe()
    pidfd = os.pidfd_open(pid)
    numbers = [str(pid), str(pidfd), str(marks_fd)]
    launched = subprocess.Popen(
        [sys.executable, "-I", "-S", str(_SCRIPT), *numbers, setup.attempt, setup.trainer, str(crash_fd),
         "gpu" if setup.spec.resources.gpus else "-"],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        pass_fds=[number for number in (pidfd, marks_fd, crash_fd, theirs) if number >= 0],
        start_new_session=True,
        cwd="/",
    )  # fmt: skip
    for number in (pidfd, theirs):
        os.close(number)
    watchdog = _Process(launched, life)
    watchdog.tell(setup.liveness, secret)
    return watchdog


class Watchdog:
    """Keeps one watchdog process running for as long as this process lives."""

    def __init__(self, setup: WatchedTrainer, secret: Sealed) -> None:
        """`secret`: of the server that the setup names."""
        self._setup = setup
        self._server = (setup.liveness, secret)
        self._lock = threading.Lock()
        self._process: _Process | None = None

    def start(self) -> None:
        """Start it, and the thread that starts it anew should it end."""
        global _marks
        marks_fd = os.memfd_create("surefoot-marks")
        os.ftruncate(marks_fd, MARKS.size + counters.SIZE)
        _marks = mmap.mmap(marks_fd, MARKS.size + counters.SIZE)
        mark(-1, -1)
        counters.attach(_marks, MARKS.size)
        crash_fd = os.memfd_create("surefoot-crash")
        faulthandler.enable(crash_fd, all_threads=False)  # the watchdog tells what it says
        self._process = start_watchdog(self._setup, self._server[1], os.getpid(), marks_fd, crash_fd)
        threading.Thread(target=self._keep, args=(marks_fd, crash_fd), name="liveness-watchdog", daemon=True).start()

    def tell(self, address: tuple[str, int], secret: str) -> None:
        """Beat to another server from now on: a restarted supervisor's."""
        with self._lock:
            self._server = (address, Sealed(secret))
            if self._process is not None:
                self._process.tell(*self._server)

    def _keep(self, marks_fd: int, crash_fd: int) -> None:
        pause = threading.Event()
        while True:
            assert self._process is not None
            started = time.monotonic()
            self._process.wait()
            if time.monotonic() - started < RESTART_S:
                pause.wait(RESTART_S)
            with self._lock:
                self._process.close()
                self._process = start_watchdog(self._setup, self._server[1], os.getpid(), marks_fd, crash_fd)
                self._process.tell(*self._server)
