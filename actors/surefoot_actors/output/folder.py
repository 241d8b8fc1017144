"""The folder that `run.output_dir` is, on this node: one a trainer process, which goes with it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path

from surefoot.errors import NodeError
from surefoot_actors.node_data.locks import locked, try_locked

__all__ = ["LocalFolder"]

_LOCK, _FILES = "lock", "files"


class LocalFolder:
    """A new, empty folder. What processes that were killed have left on this node is removed by whoever comes next.

    Raises NodeError where somebody else has taken its place, or the disk has none.
    """

    def __init__(self, on_wait: Callable[[], None] = lambda: None) -> None:
        """`on_wait` is called again and again while another process makes one, and may raise to end that."""
        self._base, self._on_wait = Path(tempfile.gettempdir()) / f"surefoot-output-{os.getuid()}", on_wait
        try:
            self._make()
        except OSError as error:
            raise NodeError(
                f"there can be no folder for run.output_dir at {self._base}, below TMPDIR: {error.strerror or error}"
            ) from error
        self.path = self._root / _FILES

    def _make(self) -> None:
        _own(self._base)
        with self._alone():
            self._root = Path(tempfile.mkdtemp(dir=self._base))
            # held until this process ends, whatever ends it
            self._lock = os.open(self._root / _LOCK, os.O_RDWR | os.O_CREAT, 0o600)
            fcntl.flock(self._lock, fcntl.LOCK_EX)
        (self._root / _FILES).mkdir()

    def remove_leftovers(self) -> None:
        """Remove the folders of processes that have ended."""
        with self._alone():  # one that is being made has no lock yet
            others = [root for root in self._base.iterdir() if root != self._root and root.is_dir()]
            leftovers = [root for root in others if _is_nobodys(root / _LOCK)]
        for root in leftovers:
            shutil.rmtree(root, ignore_errors=True)

    def _alone(self) -> contextlib.AbstractContextManager[None]:
        return locked(self._base / _LOCK, self._on_wait)

    def remove(self) -> None:
        """Remove it: nothing of it is needed any more."""
        shutil.rmtree(self._root, ignore_errors=True)
        with contextlib.suppress(OSError):
            os.close(self._lock)


def _own(base: Path) -> None:
    """Make a folder that is ours alone: all can write to the one that it lies in."""
    with contextlib.suppress(FileExistsError):
        base.mkdir(mode=0o700)
    found = os.lstat(base)
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
        raise NodeError(f"{base} is no folder of this user's: name another temporary folder, by TMPDIR")
    if stat.S_IMODE(found.st_mode) & 0o077:
        base.chmod(0o700)


def _is_nobodys(lock: Path) -> bool:
    """Whether nobody holds this lock. One that cannot be opened is of a folder that is gone, or no folder of ours."""
    try:
        with try_locked(lock) as free:
            return free
    except OSError:
        return False
