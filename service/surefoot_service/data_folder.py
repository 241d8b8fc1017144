"""The data folder of one `surefoot up`: its owner's alone, locked while it runs, naming where it listens."""

from __future__ import annotations

import fcntl
import json
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from surefoot._where import network_here
from surefoot.errors import UserError
from surefoot_service.keys import private_file

__all__ = ["announced", "locked", "make_private"]

_OTHERS = stat.S_IRWXG | stat.S_IRWXO
# what lies in the folder, whatever made it, and however it was copied there
_FILES = (
    "surefoot.db*",
    "key",
    "secrets.key",
    "token",
    "token.sha256",
    "service.json",
    "head.json",
    "lock",
    "packages/*",
)
_FOLDERS = ("packages",)
_DATABASE = "surefoot.db"


def make_private(data: Path, *, database: bool = False) -> None:
    """Make the folder, and what of the service's lies in it, its owner's alone, whatever it was before.

    `database`: SQLite's is made here, so that it is nobody else's from its first byte; its other files get the same mode. Raises
    UserError for a folder that is somebody else's, or cannot be one of the service's own.
    """
    try:
        data.mkdir(parents=True, exist_ok=True, mode=0o700)
        _close_to_others(data)
        for pattern in _FOLDERS:
            for folder in data.glob(pattern):
                folder.chmod(0o700)
        for pattern in _FILES:
            for file in data.glob(pattern):
                with suppress(FileNotFoundError):  # of the database, or of an upload that has just ended
                    _close_file(file)
        if database:
            os.close(os.open(data / _DATABASE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    except OSError as error:
        raise UserError(f"the data folder {data} cannot be used: {error}; name another by --data") from error


def _close_to_others(data: Path) -> None:
    found = data.stat()
    if found.st_uid != os.geteuid():
        raise UserError(
            f"the data folder {data} is another user's (uid {found.st_uid}); name one of your own by --data"
        )
    if not found.st_mode & _OTHERS:
        return
    if found.st_mode & stat.S_ISVTX or data.resolve() in (Path("/"), Path.home().resolve()):
        raise UserError(
            f"{data} is for more than Surefoot: name a folder of its own by --data, such as {data}/surefoot"
        )
    data.chmod(0o700)


def _close_file(file: Path) -> None:
    found = file.lstat()
    if stat.S_ISREG(found.st_mode) and found.st_mode & _OTHERS:
        file.chmod(0o600)


@contextmanager
def locked(data: Path) -> Iterator[None]:
    """Hold the folder, making it where it is not there. Raises UserError while a live `up` holds it."""
    make_private(data)
    handle = os.open(data / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        if not _lock(handle):
            holder = os.read(handle, 20).decode(errors="replace").strip() or "unknown"
            raise UserError(
                f"{data} is in use by another `surefoot up` (pid {holder}); stop that one, or name another folder by --data"
            )
        os.ftruncate(handle, 0)
        os.write(handle, f"{os.getpid()}\n".encode())
        yield
    finally:
        os.close(handle)


def _lock(handle: int) -> bool:
    """Lock the file, unless a live `up` has. The kernel lets go of it when the process ends, however that comes."""
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            pass
        try:
            # Who looks whether an `up` runs shares the lock for an instant; an `up` shares it with nobody.
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        fcntl.flock(handle, fcntl.LOCK_UN)


@contextmanager
def announced(data: Path, url: str) -> Iterator[None]:
    """Tell in the folder where the service is, for the SDK and the CLI."""
    file = data / "service.json"
    private_file(file, json.dumps({"url": url, "pid": os.getpid(), "network": network_here()}) + "\n")
    try:
        yield
    finally:
        file.unlink(missing_ok=True)
