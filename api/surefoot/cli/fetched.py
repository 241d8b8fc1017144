"""Where commands put what they fetch, where nobody has said: a folder that is no part of the code that it lies beside."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

__all__ = ["own_folder"]


@contextmanager
def own_folder(folder: Path) -> Iterator[Path]:
    """Make the folder, with a .gitignore by which it is neither packaged nor committed; take it back where nothing comes of it."""
    ignore, is_new = folder / ".gitignore", not folder.exists()
    folder.mkdir(exist_ok=True)
    if not ignore.exists():
        ignore.write_text("*\n")
    try:
        yield folder
    except BaseException:
        if is_new and [*folder.iterdir()] == [ignore]:
            with suppress(OSError):
                ignore.unlink()
                folder.rmdir()
        raise
