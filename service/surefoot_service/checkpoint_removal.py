"""Removing a deleted job's checkpoints: only what lies below the job's own place, never through a link, manifests first.

All of it blocks, for as long as the storage likes: it is called in threads of its own (see `retention`).
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import fsspec

__all__ = ["KeptError", "is_below", "remove_place"]

# what else fsspec can open (archives, caches, other hosts' pages) is no place for checkpoints
_REMOTE = frozenset({"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "hdfs", "memory"})
_MANIFEST = "manifest.json"
# files a request to the storage
_BATCH = 500


class KeptError(Exception):
    """This place is not removed; the reason is a sentence."""


def remove_place(place: str, job: str) -> int:
    """Remove all that lies below the job's own place; return how many files. Removing it again goes on where it was.

    A folder of which only a part is gone is no checkpoint: manifests go first. Raises KeptError for a place that is not the job's own,
    and what the storage raises.
    """
    if place.rstrip("/").rpartition("/")[2] != job or ".." in place.split("/"):
        raise KeptError(f"{place} is not job {job}'s own place")
    local = _local_path(place)
    return _remove_local(local) if local is not None else _remove_remote(place)


def is_below(place: str, url: str) -> bool:
    """Whether a URL is this place or below it, whatever links it goes by."""
    one, other = _local_path(url), _local_path(place)
    if one is None or other is None:
        return one is other and f"{url.rstrip('/')}/".startswith(f"{place.rstrip('/')}/")
    return Path(os.path.realpath(one)).is_relative_to(os.path.realpath(other))


def _local_path(url: str) -> Path | None:
    """The folder that a path or a file URL means; None for a storage elsewhere."""
    if "://" not in url and "::" not in url:
        return Path(url)
    scheme, _, path = url.partition("://")
    return Path(path) if scheme in ("file", "local") and "::" not in url else None


def _remove_local(place: Path) -> int:
    if not place.is_absolute():
        raise KeptError(f"{place} is no absolute path: which folder it means is not known here")
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
    scheme = urlsplit(place).scheme
    if "::" in place or scheme not in _REMOTE:
        raise KeptError(f"{place} is in no storage that checkpoints are removed from ({', '.join(sorted(_REMOTE))})")
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
