"""What lies in the folder as a step begins: names, sizes, times, and what is in small files. Cheap enough for the training thread."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from surefoot.output import MAX_FILES, path_fault

__all__ = ["SMALL_BYTES", "Look", "Seen", "look", "take"]

# Up to this size a file is read at once, so much in all: what is written anew in each step is then whole, and of one step.
SMALL_BYTES = 256 * 1024
_MOST_READ = 8 * 1024 * 1024
# A folder with more than so many entries is looked at no further.
_MOST_ENTRIES = 2 * MAX_FILES
# A file that was modified so shortly before is read again the next time: it may be modified within the same tick of its clock.
_TICK_NS = 50_000_000


@dataclass(frozen=True, slots=True)
class Seen:
    """A file, as the system tells of it."""

    path: str
    bytes: int
    modified_ns: int
    inode: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """The folder at a moment."""

    # by path
    files: tuple[Seen, ...]
    # of small ones that are not known already, by path
    contents: Mapping[str, bytes]
    # what cannot be kept, and why: sentences
    odd: tuple[str, ...]
    # folders that are there and could not be looked into; "": the whole
    unread: tuple[str, ...] = ()
    # unix time, in nanoseconds
    at_ns: int
    # paths of files that are in this process's memory to be written: no time tells when that is done
    mapped: frozenset[str] = frozenset()

    def is_settled(self, seen: Seen) -> bool:
        """Whether a file with the same size and time later is the same."""
        return seen.modified_ns < self.at_ns - _TICK_NS and seen.path not in self.mapped


def look(folder: Path, is_known: Callable[[Seen], bool]) -> Look:
    """Return what lies in the folder. Follows no link. `is_known`: what is in this file need not be read again."""
    at_ns, mapped = time.time_ns(), _mapped(folder)
    files: list[Seen] = []
    odd: list[str] = []
    unread: list[str] = []
    count, folders = 0, [""]
    while folders and count <= _MOST_ENTRIES:
        inner = folders.pop()
        try:
            count += _enter(folder, inner, folders, files, odd)
        except FileNotFoundError:
            count += 1  # gone meanwhile
        except OSError as error:
            count += 1
            unread.append(inner)
            odd.append(f"{_shown(inner or '.')}: {error.strerror}; what was kept of it before stays")
    unread += folders
    if count > _MOST_ENTRIES:
        odd.append(f"there are more than {_MOST_ENTRIES} files and folders: the rest of them was not looked at")
    files.sort(key=lambda seen: seen.path)
    return Look(
        files=tuple(files),
        contents=_read(folder, files, is_known),
        odd=tuple(odd),
        unread=tuple(unread),
        at_ns=at_ns,
        mapped=mapped,
    )


def take(path: Path) -> int:
    """Open a file to be read: a plain one, without following a link or waiting for a pipe. Raises OSError."""
    return os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)


def _mapped(folder: Path) -> frozenset[str]:
    """Files below the folder that this process has mapped to write to (numpy.memmap): of a page, only the first write has a time."""
    root = f"{os.path.realpath(folder)}/"
    try:
        with open("/proc/self/maps", errors="surrogateescape") as maps:
            lines = [line.rstrip("\n") for line in maps if root in line]
    except OSError:
        return frozenset()  # no file can be opened: then none is read either
    # address, rights, offset, device, inode, path
    fields = (line.split(maxsplit=5) for line in lines)
    return frozenset(f[5].removeprefix(root) for f in fields if f[1][1] == "w" and f[1][3] == "s")


def _read(folder: Path, files: list[Seen], is_known: Callable[[Seen], bool]) -> dict[str, bytes]:
    contents: dict[str, bytes] = {}
    left = _MOST_READ
    for seen in files:
        if seen.bytes > SMALL_BYTES or seen.bytes > left or is_known(seen):
            continue
        try:
            handle = take(folder / seen.path)
        except OSError:
            continue  # told by whoever uploads it
        try:
            data = os.pread(handle, seen.bytes, 0)
        finally:
            os.close(handle)
        if len(data) == seen.bytes:
            contents[seen.path] = data
            left -= len(data)
    return contents


def _enter(root: Path, inner: str, folders: list[str], files: list[Seen], odd: list[str]) -> int:
    """Look at one folder; return how many entries it has. Raises OSError where it cannot be read."""
    entries = list(os.scandir(root / inner))
    for entry in entries:
        path = f"{inner}/{entry.name}" if inner else entry.name
        try:
            found = entry.stat(follow_symlinks=False)
        except OSError:
            continue  # gone meanwhile
        if fault := path_fault(path) or _fault_of(found.st_mode):
            odd.append(f"{_shown(path)}: {fault}")
        elif stat.S_ISDIR(found.st_mode):
            folders.append(path)
        else:
            files.append(Seen(path, found.st_size, found.st_mtime_ns, found.st_ino))
    return 1 + len(entries)


def _fault_of(mode: int) -> str:
    if stat.S_ISREG(mode) or stat.S_ISDIR(mode):
        return ""
    return (
        "it is a link, which is not followed" if stat.S_ISLNK(mode) else "it is no file, but a socket, pipe or device"
    )


def _shown(path: str) -> str:
    return repr(path)[:300]
