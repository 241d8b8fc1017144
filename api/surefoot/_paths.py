"""Folders that people name, found on this machine."""

from __future__ import annotations

import os
from pathlib import Path

from surefoot.errors import UserError

__all__ = ["folder_at", "why_not"]


def folder_at(folder: str | os.PathLike[str], kind: type[UserError]) -> Path:
    """Return a folder's whole path, with "~" and links resolved. Raises `kind` where there is no such folder."""
    try:
        found = Path(folder).expanduser().resolve()
        is_there = found.is_dir()
    except (OSError, RuntimeError, ValueError) as error:
        # RuntimeError: a link in a circle, and "~somebody" who is not there
        raise kind(f"there is no folder {str(folder)!r}: {why_not(error)}; name another") from None
    if not is_there:
        raise kind(f"there is no folder {found}")
    return found


def why_not(error: Exception) -> str:
    """What was wrong with a path, in the system's words, without the path itself."""
    return (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
