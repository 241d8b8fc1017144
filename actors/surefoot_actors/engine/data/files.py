"""What a forked process must not share with the one that forked it: offsets of open files, and connections."""

from __future__ import annotations

import fcntl
import os
import sqlite3
import stat
from collections.abc import Iterator
from typing import Any

__all__ = ["reopen_files", "unshareable"]

_KEPT_FLAGS = os.O_ACCMODE | os.O_APPEND | os.O_NONBLOCK | os.O_DIRECT | os.O_SYNC | os.O_NOATIME
# Made to be used by several processes at a time.
_SHARED_ON_PURPOSE = ("multiprocessing.queues", "torch.multiprocessing.queue")


def reopen_files() -> None:
    """Give this process offsets of its own in the regular files that it inherited and may read.

    Under the same numbers, so that whoever holds them, in Python or in C, notices nothing; deleted files too. Files that are only
    written keep the common offset: they are logs, whose lines would else lie over each other.
    """
    for number in sorted(map(int, os.listdir("/proc/self/fd"))):
        if number > 2:
            _reopen(number)


def _reopen(number: int) -> None:
    try:
        if not stat.S_ISREG(os.fstat(number).st_mode):
            return
        flags = fcntl.fcntl(number, fcntl.F_GETFL)
        if flags & os.O_ACCMODE == os.O_WRONLY:
            return
        offset = os.lseek(number, 0, os.SEEK_CUR)
        inheritable = os.get_inheritable(number)
        fresh = os.open(f"/proc/self/fd/{number}", flags & _KEPT_FLAGS)
    except OSError:
        return  # closed by now (the listing's own), without offsets, or not to be opened again by this user
    try:
        os.lseek(fresh, offset, os.SEEK_SET)
        os.dup2(fresh, number, inheritable)
    finally:
        os.close(fresh)


def unshareable(value: Any) -> str | None:
    """Return what an object is that two processes cannot use in turn, or None."""
    if isinstance(value, sqlite3.Connection | sqlite3.Cursor):
        return "an SQLite connection"
    if type(value).__module__ in _SHARED_ON_PURPOSE:
        return None
    for number in _numbers(value):
        try:
            mode = os.fstat(number).st_mode
            reads = fcntl.fcntl(number, fcntl.F_GETFL) & os.O_ACCMODE != os.O_WRONLY
        except OSError:
            continue
        if stat.S_ISSOCK(mode):
            return "a connection"
        if stat.S_ISFIFO(mode) and reads:
            return "a pipe"
    return None


def _numbers(value: Any) -> Iterator[int]:
    """The descriptors of a file-like object."""
    fileno = getattr(type(value), "fileno", None)
    if callable(fileno):
        try:
            number = value.fileno()
        except Exception:  # noqa: BLE001  whatever closed or unconnected objects raise: they hold none
            return
        if type(number) is int and number > 2:
            yield number
