"""The folder that `run.output_dir` is, on this node: one a trainer process, which goes with it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import stat
import tempfile
from pathlib import Path

from surefoot.errors import NodeError

__all__ = ["LocalFolder"]

_LOCK, _FILES = "lock", "files"


class LocalFolder:
    """A new, empty folder. What processes that were killed have left on this node is removed by whoever comes next.

    Raises NodeError where somebody else has taken its place.
    """

    def __init__(self) -> None:
        base = Path(tempfile.gettempdir()) / f"surefoot-output-{os.getuid()}"
        _own(base)
        with _locked(base / _LOCK):
            self._root = Path(tempfile.mkdtemp(dir=base))
            # held until this process ends, whatever ends it
            self._lock = os.open(self._root / _LOCK, os.O_RDWR | os.O_CREAT, 0o600)
            fcntl.flock(self._lock, fcntl.LOCK_EX)
        self._base = base
        self.path = self._root / _FILES
        self.path.mkdir()

    def remove_leftovers(self) -> None:
        """Remove the folders of processes that have ended."""
        with _locked(self._base / _LOCK):
            for root in self._base.iterdir():
                if root != self._root and root.is_dir() and _is_nobodys(root / _LOCK):
                    shutil.rmtree(root, ignore_errors=True)

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


@contextlib.contextmanager
def _locked(path: Path):  # type: ignore[no-untyped-def]
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _is_nobodys(lock: Path) -> bool:
    """Whether nobody holds this lock. One that cannot be opened is of a folder that is half removed."""
    try:
        handle = os.open(lock, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(handle)
    return True
