"""Files that are found again after a power cut: their bytes are synced, and so is the folder that has their names."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["sync_folder"]


def sync_folder(folder: Path) -> None:
    """Have the names in a folder on disk: a file whose bytes are synced may be without one yet. Blocks."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
