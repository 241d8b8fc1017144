"""Removing a deleted job's checkpoints: only what lies below the job's own place, never through a link, manifests first.

All of it blocks, for as long as the storage likes: it is called in threads of its own (see `retention`).
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import fsspec

from surefoot_service.checkpoints.places import Place, RefusedUrlError, read_place

__all__ = ["KeptError", "is_below", "remove_place"]

_MANIFEST = "manifest.json"
# files a request to the storage
_BATCH = 500


class KeptError(Exception):
    """This place is not removed; the reason is a sentence."""


def remove_place(url: str, job: str, protocols: Collection[str]) -> int:
    """Remove all that lies below the job's own place; return how many files. Removing it again goes on where it was.

    A folder of which only a part is gone is no checkpoint: manifests go first. Raises KeptError for a place that is not the job's own,
    or not of a protocol that is allowed, and what the storage raises.
    """
    try:
        place = read_place(url, protocols)
    except RefusedUrlError as error:
        raise KeptError(str(error)) from error
    if len(place.parts) < 2 or place.parts[-1] != job:
        raise KeptError(f"{url} is not job {job}'s own place")
    return _remove_local(_path(place)) if place.protocol == "file" else _remove_remote(url)


def is_below(place: str, url: str) -> bool:
    """Whether a URL is this place or below it, whatever links it goes by. One that could mean anything may be, if it names its folder."""
    try:
        one, other = read_place(url), read_place(place)
    except RefusedUrlError:
        return place.rstrip("/").rpartition("/")[2] in url
    if one.protocol == other.protocol == "file":
        return Path(os.path.realpath(_path(one))).is_relative_to(os.path.realpath(_path(other)))
    return other.holds(one)


def _path(place: Place) -> Path:
    return Path("/", *place.parts)


def _remove_local(place: Path) -> int:
    if not os.path.lexists(place):
        return 0
    if place.is_symlink() or not place.is_dir():
        raise KeptError(f"{place} is no folder of its own: what it leads to stays")
    # Links among the files are removed, not followed: os.walk does not go through them, nor does rmtree.
    num_files = 0
    for folder, _, files in os.walk(place):
        num_files += len(files)
        if _MANIFEST in files:
            (Path(folder) / _MANIFEST).unlink(missing_ok=True)
    shutil.rmtree(place)
    return num_files


def _remove_remote(place: str) -> int:
    system, root = fsspec.core.url_to_fs(place)
    system.invalidate_cache()
    root = root.rstrip("/")
    if not system.exists(root):
        return 0
    found = sorted(system.find(root), key=lambda path: not path.endswith(f"/{_MANIFEST}"))
    if strays := [path for path in found if not path.startswith(f"{root}/")]:
        raise KeptError(f"the storage lists {strays[0]} below {place}")
    for some in _batches(found):
        system.rm(some)
    # where folders are things of their own
    if system.exists(root):
        system.rm(root, recursive=True)
    return len(found)


def _batches(paths: Iterable[str]) -> Iterator[list[Any]]:
    rest = iter(paths)
    while some := list(islice(rest, _BATCH)):
        yield some
