"""What lies at a URL: names, sizes, and a mark that changes when a file does. Reads no file."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from typing import Any

import fsspec
import xxhash

from surefoot.data import is_local
from surefoot.errors import DataError

__all__ = ["DATA_KEY", "MOST_FILES", "Item", "Listing", "differences", "digest_of", "list_place", "local_path"]

# In a trainer's fingerprint: the digest of data that is copied to its node, under its name behind this.
DATA_KEY = "data "
MOST_FILES = 5_000_000
# so many files are named where two lists differ
_MOST_NAMED = 3
# of a store: what says that the bytes are others, the better first
_MARKS = (
    "ETag",
    "etag",
    "md5Hash",
    "content_md5",
    "generation",
    "crc32c",
    "LastModified",
    "last_modified",
    "updated",
    "mtime",
)


@dataclass(frozen=True, slots=True)
class Item:
    """A file: its path below the place, its size, and what changes when it does ("": nothing is known that would)."""

    path: str
    bytes: int
    mark: str = ""


@dataclass(frozen=True, slots=True)
class Listing:
    """What lies at a place, in the order of its names."""

    items: tuple[Item, ...]
    # the place is this one file
    is_file: bool = False

    @property
    def bytes(self) -> int:
        return sum(item.bytes for item in self.items)

    @property
    def marked(self) -> bool:
        """Whether a file that changes would be noticed."""
        return all(item.mark for item in self.items)

    def digest(self) -> str:
        """A hash of all that is known."""
        return digest_of({item.path: (item.bytes, item.mark) for item in self.items})


def digest_of(files: Mapping[str, tuple[int, str]]) -> str:
    """Hash names, sizes, and what is known of each file's bytes: the order in which they were found does not matter."""
    found = xxhash.xxh3_128()
    for path in sorted(files):
        size, known = files[path]
        # no path has a NUL, and neither number nor mark a line's end
        found.update(f"{path}\0{size}\0{known}\n".encode(errors="surrogateescape"))
    return found.hexdigest()


def differences(agreed: Mapping[str, tuple[int, str]], here: Mapping[str, tuple[int, str]]) -> str:
    """Name the files in which what is here differs from what was agreed on; empty: none does."""
    told = [_difference(path, agreed.get(path), here.get(path)) for path in sorted(agreed.keys() | here.keys())]
    named = [text for text in told if text]
    more = f", and {len(named) - _MOST_NAMED} more" if len(named) > _MOST_NAMED else ""
    return ", ".join(named[:_MOST_NAMED]) + more


def _difference(path: str, there: tuple[int, str] | None, here: tuple[int, str] | None) -> str:
    if there == here:
        return ""
    if here is None:
        return f"{path} is missing"
    if there is None:
        return f"{path} is new"
    if there[0] != here[0]:
        return f"{path} has {here[0]} bytes and had {there[0]}"
    return f"{path} is not the same"


def local_path(url: str) -> str:
    """The path that a local URL names."""
    return url.removeprefix("file://")


def list_place(url: str, most: int = MOST_FILES) -> Listing | None:
    """List what lies at a URL; None: there are more files than `most`. Raises DataError, and what the storage raises."""
    found = _local(local_path(url)) if is_local(url) else _stored(url)
    items = tuple(islice(found, most + 1))
    if len(items) > most:
        return None
    if len(items) == 1 and not items[0].path:
        name = url.rstrip("/").rpartition("/")[2]
        return Listing((Item(name, items[0].bytes, items[0].mark),), is_file=True)
    ordered = tuple(sorted(items, key=lambda item: item.path))
    _check_names(url, ordered)
    return Listing(ordered)


def _local(root: str) -> Iterator[Item]:
    if not stat.S_ISDIR(os.stat(root).st_mode):
        yield _local_item(root, "")
        return
    folders: list[tuple[str, frozenset[tuple[int, int]]]] = [("", frozenset())]
    while folders:
        folder, above = folders.pop()
        here = os.stat(os.path.join(root, folder))
        if (here.st_dev, here.st_ino) in above:
            raise DataError(f"{os.path.join(root, folder)} is a link to a folder that it lies in")
        within = above | {(here.st_dev, here.st_ino)}
        with os.scandir(os.path.join(root, folder)) as entries:
            for entry in entries:
                path = os.path.join(folder, entry.name)
                if entry.is_dir():
                    folders.append((path, within))
                else:
                    yield _local_item(entry.path, path)


def _local_item(file: str, path: str) -> Item:
    try:
        found = os.stat(file)
    except FileNotFoundError as error:
        if path and os.path.islink(file):
            raise DataError(f"{file} is a link to what is not there") from error
        raise
    if not stat.S_ISREG(found.st_mode):
        raise DataError(f"{file} is neither a file nor a folder")
    return Item(path, found.st_size, str(found.st_mtime_ns))


def _stored(url: str) -> Iterator[Item]:
    # what others write is to be seen at once, and the environment to be read anew
    system, root = fsspec.core.url_to_fs(url, skip_instance_cache=True, use_listings_cache=False)
    root = str(root).rstrip("/")
    found: Mapping[str, Mapping[str, Any]] = system.find(root, detail=True)
    if not found:
        raise FileNotFoundError(url)
    for path, about in found.items():
        below = "" if path == root else path.removeprefix(f"{root}/")
        if not path.endswith("/"):  # else it stands for a folder
            yield Item(below, int(about.get("size") or 0), _mark(about))


def _mark(about: Mapping[str, Any]) -> str:
    known = next((about[name] for name in _MARKS if about.get(name)), "")
    return known.isoformat() if isinstance(known, datetime) else " ".join(str(known).split())


def _check_names(url: str, items: Iterable[Item]) -> None:
    """Raise DataError for names that no folder can hold."""
    paths = {item.path for item in items}
    for path in paths:
        parts = path.split("/")
        if any(part in ("", ".", "..") for part in parts) or "\0" in path:
            raise DataError(f"{url} has a file called {path!r}, which no folder can hold")
        above = next((a for n in range(1, len(parts)) if (a := "/".join(parts[:n])) in paths), None)
        if above is not None:
            raise DataError(f"{url} has {above!r} as a file and as a folder, which no folder can hold")
