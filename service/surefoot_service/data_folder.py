"""The data folder of one `surefoot up`: locked while it runs, naming where it listens."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from surefoot.errors import UserError
from surefoot_service.keys import private_file

__all__ = ["announced", "locked"]


@contextmanager
def locked(data: Path) -> Iterator[None]:
    """Hold the folder, making it where it is not there. Raises UserError while a live `up` holds it."""
    data.mkdir(parents=True, exist_ok=True, mode=0o700)
    handle = os.open(data / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        try:
            # The kernel lets go of it when the process ends, however that comes.
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(handle, 20).decode(errors="replace").strip() or "unknown"
            raise UserError(
                f"{data} is in use by another `surefoot up` (pid {holder}); stop that one, or name another folder by --data"
            ) from None
        os.ftruncate(handle, 0)
        os.write(handle, f"{os.getpid()}\n".encode())
        yield
    finally:
        os.close(handle)


@contextmanager
def announced(data: Path, url: str) -> Iterator[None]:
    """Tell in the folder where the service is, for the SDK and the CLI."""
    file = data / "service.json"
    private_file(file, json.dumps({"url": url, "pid": os.getpid()}) + "\n")
    try:
        yield
    finally:
        file.unlink(missing_ok=True)
