"""What training code writes into its working folder: it stays on the trainer's node and goes with it, which is told once."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

__all__ = ["WorkingFolder", "advice"]

# So many files are looked at, of a folder that may be anybody's; so many are named.
_MOST_FILES = 5_000
_MOST_NAMED = 5
_NOBODYS = frozenset({"__pycache__", ".git", ".ipynb_checkpoints"})

_Files = dict[str, tuple[int, int]]


class WorkingFolder:
    """The working folder as it was before the user's code ran."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._before = _files(folder)

    def left(self) -> tuple[str, ...]:
        """Return the files that are new or other than they were, by their paths in the folder, in order.

        Those that lie in new folders stand for themselves; of more files than are looked at, none is told.
        """
        now = _files(self._folder)
        if len(self._before) >= _MOST_FILES or len(now) >= _MOST_FILES:
            return ()
        return tuple(sorted(name for name, how in now.items() if self._before.get(name) != how))


def advice(files: tuple[str, ...]) -> str:
    """Say which files are lost, and what to do about it."""
    more = f" and {len(files) - _MOST_NAMED} more" if len(files) > _MOST_NAMED else ""
    return (
        "the code wrote files into its working folder, which are on the trainer's node alone and go with it: "
        f"{', '.join(files[:_MOST_NAMED])}{more}; write what is to be kept to run.output_dir, which `surefoot files` fetches "
        "(what is tracked is kept, and the final model: `surefoot model`)"
    )


def _files(folder: Path) -> _Files:
    found: _Files = {}
    for path in _walk(folder):
        try:
            stat = os.lstat(path)
        except OSError:  # gone meanwhile: other trainers of the node work in the same folder
            continue
        found[os.path.relpath(path, folder)] = (stat.st_size, stat.st_mtime_ns)
        if len(found) >= _MOST_FILES:
            break
    return found


def _walk(folder: Path) -> Iterator[str]:
    for here, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if name not in _NOBODYS]
        yield from (os.path.join(here, name) for name in files)
