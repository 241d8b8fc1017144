"""Locks between processes of one node: files that the kernel unlocks when whoever locked them is gone, however it ended."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

__all__ = ["Holds", "locked", "try_locked"]

# So often whoever waits asks whether it still is to: a lock cannot be awaited together with anything else.
_LOOK_EVERY_S = 0.2


def _go_on() -> None:
    pass


@contextlib.contextmanager
def locked(file: Path, on_wait: Callable[[], None] = _go_on) -> Iterator[None]:
    """Be the only one within. Waits for whoever is, until that has ended or is gone; `on_wait` is called again and again meanwhile, and
    may raise to end that."""
    handle = _open(file)
    try:
        _take(handle, fcntl.LOCK_EX, on_wait)
        yield
    finally:
        _close(handle)


@contextlib.contextmanager
def try_locked(file: Path) -> Iterator[bool]:
    """The same without waiting: False where another process has it, or holds it."""
    handle = _open(file)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True
    finally:
        _close(handle)


class Holds:
    """What this process uses: until it is closed, or the process is gone, `try_locked` is False everywhere."""

    def __init__(self, on_wait: Callable[[], None] = _go_on) -> None:
        """`on_wait` is called again and again while it waits, and may raise to end that."""
        self.on_wait = on_wait
        self._handles: list[int] = []

    def hold(self, file: Path) -> None:
        """Hold it together with others. Waits while somebody has it for itself."""
        handle = _open(file)
        try:
            _take(handle, fcntl.LOCK_SH, self.on_wait)
            os.utime(handle)
        except BaseException:
            _close(handle)
            raise
        self._handles.append(handle)

    def close(self) -> None:
        while self._handles:
            _close(self._handles.pop())


def _take(handle: int, how: int, on_wait: Callable[[], None]) -> None:
    while True:
        try:
            fcntl.flock(handle, how | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            on_wait()
        time.sleep(_LOOK_EVERY_S)


def _open(file: Path) -> int:
    return os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


def _close(handle: int) -> None:
    # by name: a process that was forked meanwhile has the file open too
    fcntl.flock(handle, fcntl.LOCK_UN)
    os.close(handle)
