"""Notice: a process that is told to terminate (SIGTERM) first has its work handed over."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable

__all__ = ["on_sigterm"]


def on_sigterm(tell: Callable[[str], None]) -> None:
    """Call `tell` with a reason, on a thread of its own, whenever SIGTERM comes; the process goes on. For the main thread.

    By the wakeup descriptor, which is written when the signal comes and not when the main thread next runs Python; Ray's
    may be in C++ for long. What this process forks (data workers) dies of the signal as any process does.
    """
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    signal.signal(signal.SIGTERM, lambda *_: None)
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    os.register_at_fork(after_in_child=_forget)
    threading.Thread(target=_wait, args=(reading, tell), name="notice", daemon=True).start()


def _wait(reading: int, tell: Callable[[str], None]) -> None:
    while number := os.read(reading, 1):
        if number[0] == signal.SIGTERM:
            tell("its process was told to terminate (SIGTERM)")


def _forget() -> None:
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
