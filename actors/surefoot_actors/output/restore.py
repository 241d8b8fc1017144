"""From a manifest back to files in the folder. Blocks."""

from __future__ import annotations

import contextlib
import os
from collections import defaultdict
from pathlib import Path

import xxhash

from surefoot.output import KeptFile, OutputManifest
from surefoot_actors.output.look import Seen
from surefoot_actors.output.store import OutputStore
from surefoot_actors.output.upload import Known

__all__ = ["restore"]


def restore(store: OutputStore, manifest: OutputManifest, folder: Path) -> dict[str, Known]:
    """Write the files of a manifest; what lies there beside them stays. Return what is known of them then.

    They are written in place: whoever holds one open to append goes on behind what is restored. Raises DamagedError for an object that is
    missing or corrupt, OSError where the folder cannot hold them: nothing of them is there then, or it would be kept as the job's.
    """
    made: list[tuple[Path, bool]] = []
    try:
        return _restore(store, manifest, folder, made)
    except BaseException:
        for path, was_there in made:
            with contextlib.suppress(OSError):
                os.truncate(path, 0) if was_there else os.unlink(path)
        raise


def _restore(
    store: OutputStore, manifest: OutputManifest, folder: Path, made: list[tuple[Path, bool]]
) -> dict[str, Known]:
    """`made`: gets what is written to, and whether it was there before."""
    places: dict[str, list[tuple[KeptFile, int, int, int]]] = defaultdict(list)
    parts: dict[str, dict[int, tuple[str, int]]] = defaultdict(dict)
    for file in manifest.files:
        made.append((folder / file.path, os.path.lexists(folder / file.path)))
        _make(folder / file.path, file.bytes)
        at = 0
        for name, start, size in file.pieces:
            places[name].append((file, at, start, size))
            at += size
    old = {file.path for file, (_, was_there) in zip(manifest.files, made, strict=True) if was_there}
    for name, data in store.get(places):
        for file, at, start, size in places[name]:
            piece = data[start : start + size]
            if file.path in old or piece.lstrip(b"\0"):  # what is not written is zeros, and takes no room
                _write(folder / file.path, piece, at)
            parts[file.path][at] = (xxhash.xxh3_128_hexdigest(piece), size)
    return {
        file.path: _known(folder, file, tuple(p for _, p in sorted(parts[file.path].items())))
        for file in manifest.files
    }


def _make(path: Path, size: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
    try:
        os.ftruncate(handle, size)
    finally:
        os.close(handle)


def _write(path: Path, data: bytes, at: int) -> None:
    handle = os.open(path, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        view = memoryview(data)
        while view:
            count = os.pwrite(handle, view, at)
            view, at = view[count:], at + count
    finally:
        os.close(handle)


def _known(folder: Path, file: KeptFile, parts: tuple[tuple[str, int], ...]) -> Known:
    path = folder / file.path
    os.utime(path, ns=(file.modified_ns, file.modified_ns))
    found = os.lstat(path)
    seen = Seen(file.path, found.st_size, found.st_mtime_ns, found.st_ino)
    return Known(seen, file, seen.inode, parts)
