"""Files of printed lines, in a folder or behind a URL. Each is written once, whole, and never changed. All of it blocks."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
from pathlib import Path

import fsspec

from surefoot_service.checkpoints.places import read_place
from surefoot_service.durable import sync_folder

__all__ = ["LogFolder"]


class LogFolder:
    """The place: a folder a job."""

    def __init__(self, place: str) -> None:
        self._place = place
        found = read_place(place)
        # None: behind a URL
        self._folder = Path("/", *found.parts) if found.protocol == "file" else None

    def write(self, job: str, content: bytes) -> str:
        """Write a file under a name that no other has, durably; return the name."""
        name = f"{secrets.token_hex(12)}.zst"
        if self._folder is None:
            with fsspec.open(f"{self._place}/{job}/{name}", "wb") as file:
                file.write(content)
            return name
        folder = self._folder / job
        if not folder.is_dir():
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            sync_folder(folder.parent)
        # A file that is cut by a crash is in no index: nobody looks at it.
        with os.fdopen(os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as new:
            new.write(content)
            new.flush()
            os.fsync(new.fileno())
        sync_folder(folder)
        return name

    def read(self, job: str, name: str) -> bytes:
        """Return a file's bytes. Raises FileNotFoundError where it has gone."""
        if self._folder is not None:
            return (self._folder / job / name).read_bytes()
        with fsspec.open(f"{self._place}/{job}/{name}", "rb") as file:
            content: bytes = file.read()
            return content

    def remove(self, job: str, names: list[str]) -> None:
        """Remove files, those that there are."""
        for name in names:
            if self._folder is not None:
                (self._folder / job / name).unlink(missing_ok=True)
            else:
                system, path = fsspec.core.url_to_fs(f"{self._place}/{job}/{name}")
                if system.exists(path):
                    system.rm_file(path)

    def remove_all(self, job: str) -> None:
        """Remove all of a job's files, those too that no index knows. Raises OSError for what cannot be removed."""
        if self._folder is not None:
            while (folder := self._folder / job).exists():
                with contextlib.suppress(FileNotFoundError):  # another removes the same
                    shutil.rmtree(folder)
            return
        system, path = fsspec.core.url_to_fs(f"{self._place}/{job}")
        if system.exists(path):
            system.rm(path, recursive=True)
