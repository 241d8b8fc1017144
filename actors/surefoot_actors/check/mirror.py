"""A copy of the user's folder for the trials, so that what the code writes beside itself does not end up in the user's own.

Small files are copied; large ones, and folders past a number of files, are symbolic links, since data may be large.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

__all__ = ["Mirror"]

_MOST_BYTES = 1 << 20
_MOST_BYTES_IN_ALL = 64 << 20
_MOST_FILES = 5_000
# Never code of the job's own: left out, or one link each.
_LEFT_OUT = frozenset({"__pycache__"})
_LINKED = frozenset({".git", ".venv", "venv", "node_modules"})


class Mirror:
    """The copy, at `place`, made at once."""

    def __init__(self, folder: Path, place: Path) -> None:
        self.place = place
        self._bytes = self._files = 0
        place.mkdir()
        self._copy(folder, place)
        self._first = dict(self._state())

    def written(self) -> list[str]:
        """Return what was made, changed or removed since, relative to the folder; a folder that is new stands for what is in it."""
        now = dict(self._state())
        changed = [name for name in {**self._first, **now} if now.get(name) != self._first.get(name)]
        return sorted(name for name in changed if not any(name.startswith(f"{other}/") for other in changed))

    def _copy(self, folder: Path, place: Path) -> None:
        for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
            self._files += 1
            target = place / entry.name
            if entry.name in _LEFT_OUT:
                continue
            ours = not entry.is_symlink() and os.access(entry.path, os.R_OK)
            if self._files > _MOST_FILES or entry.name in _LINKED or not ours:
                target.symlink_to(Path(entry.path).resolve())
            elif entry.is_dir():
                target.mkdir()
                self._copy(Path(entry.path), target)
            else:
                self._copy_file(entry, target)

    def _copy_file(self, entry: os.DirEntry[str], target: Path) -> None:
        size = entry.stat().st_size
        if entry.is_file() and size <= _MOST_BYTES and self._bytes + size <= _MOST_BYTES_IN_ALL:
            self._bytes += size
            shutil.copy2(entry.path, target)
        else:
            target.symlink_to(entry.path)

    def _state(self) -> Iterator[tuple[str, tuple[object, ...]]]:
        """Yield each file and folder with what tells that it was changed."""
        for top, folders, files in os.walk(self.place):
            folders[:] = [name for name in folders if name not in _LEFT_OUT]
            for name in (*folders, *files):
                path = Path(top, name)
                try:
                    stat = path.stat()
                except FileNotFoundError:  # a link to nothing, or gone since
                    continue
                own = (stat.st_size, stat.st_mtime_ns) if not path.is_dir() else ()
                yield str(path.relative_to(self.place)), (path.is_symlink(), *own)
