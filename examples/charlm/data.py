"""The text: the Python standard library's own source, as one memory-mapped file of bytes."""

from __future__ import annotations

import os
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import Dataset

__all__ = ["Text", "corpus"]

SIZE_BYTES = 4_000_000
# not part of every installation of the same Python, so not part of the text
_LEFT_OUT = frozenset({"site-packages", "dist-packages", "test", "tests", "idlelib", "lib2to3", "ensurepip", "tkinter"})


class Text(Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """Windows of `context` bytes, side by side, each with the byte that follows each of its bytes (both uint8)."""

    def __init__(self, text: np.ndarray, context: int) -> None:
        self._text, self._context = text, context

    def __len__(self) -> int:
        return (len(self._text) - 1) // self._context

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        first = index * self._context
        window = torch.from_numpy(np.array(self._text[first : first + self._context + 1]))
        return window[:-1], window[1:]


def corpus(size_bytes: int = SIZE_BYTES) -> np.ndarray:
    """Return the first `size_bytes` of the standard library's source: a read-only memory map, built once a machine."""
    path = _cache_folder() / f"stdlib-{sys.version.split()[0]}-{size_bytes}.bin"
    if not path.exists():
        _write(path, size_bytes)
    return np.memmap(path, dtype=np.uint8, mode="r")


def _cache_folder() -> Path:
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = Path(home) / "surefoot-charlm"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:  # a read-only home, as containers have it
        folder = Path(tempfile.gettempdir()) / "surefoot-charlm"
        folder.mkdir(parents=True, exist_ok=True)
    return folder


def _write(path: Path, size_bytes: int) -> None:
    """Write the text beside its name, then rename: several trainers of one machine may be doing the same."""
    text = bytearray()
    for source in _sources():
        text += source.read_bytes()
        if len(text) >= size_bytes:
            break
    handle, scratch = tempfile.mkstemp(dir=path.parent)
    with os.fdopen(handle, "wb") as file:
        file.write(text[:size_bytes])
    os.replace(scratch, path)


def _sources() -> Iterator[Path]:
    """Yield the standard library's modules in an order that depends on their names alone."""
    root = Path(sysconfig.get_path("stdlib"))
    relative = (path.relative_to(root) for path in root.rglob("*.py"))
    kept = (
        path
        for path in relative
        if not _LEFT_OUT.intersection(path.parts) and not path.name.startswith("_sysconfigdata")
    )
    return (root / path for path in sorted(kept, key=lambda path: path.as_posix()))
