"""The folder of a node in which data is kept for all trainers that come to it: copies of jobs' data, and `run.cache_dir`.

    ROOT/data/KEY.lock           had by whoever copies, or looks whether there is a copy
    ROOT/data/KEY.json           a copy that is whole: its digest and folder, then a line a file. Written last, in one act
    ROOT/data/KEY-TOKEN/         its files, read-only; with ".part" at the end while they are copied. A token is never used again
    ROOT/data/KEY-TOKEN.use      held by every process that uses it
    ROOT/code/PACKAGE/           `run.cache_dir` of jobs of one package; PACKAGE.use is held as above

What nobody holds is removed when room is needed, what was used longest ago first, and when nobody has used it for two weeks.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import shutil
import stat
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from surefoot.errors import NodeError
from surefoot_actors.node_data.listing import digest_of
from surefoot_actors.node_data.locks import Holds, locked, try_locked

__all__ = ["CACHE_DIR", "CACHE_SIZE", "Copy", "NodeCache", "cache_root", "cache_size"]

# in the environment of a node: the folder in which its cache is, and how large that may become ("50Gi", "2T"; by default, as its disk)
CACHE_DIR, CACHE_SIZE = "SUREFOOT_CACHE_DIR", "SUREFOOT_CACHE_SIZE"
_SIZE = re.compile(r"^(\d+(?:\.\d+)?)([kKMGTPE]?)(i?)B?$")
UNUSED_S = 14 * 86_400.0


def cache_root(env: Mapping[str, str]) -> Path:
    """Where this node's cache is, by the environment of its processes."""
    return Path(env.get(CACHE_DIR) or tempfile.gettempdir(), f"surefoot-cache-{os.getuid()}")


def cache_size(env: Mapping[str, str]) -> int | None:
    """How many bytes it may have. Raises NodeError."""
    if not (text := env.get(CACHE_SIZE, "")):
        return None
    if (found := _SIZE.match(text)) is None or (found[3] and not found[2]):
        raise NodeError(f"{CACHE_SIZE} is {text!r}: it is a number of bytes, or such as 50Gi or 2T")
    return int(float(found[1]) * (1024 if found[3] else 1000) ** " KMGTPE".index(found[2].upper() or " "))


@dataclass(frozen=True, slots=True, kw_only=True)
class Copy:
    """A copy that is whole."""

    folder: Path
    # by path: its size, and the digest of its bytes
    files: Mapping[str, tuple[int, str]]
    digest: str
    is_file: bool

    @property
    def path(self) -> Path:
        """The folder, or the one file that it is."""
        return self.folder / next(iter(self.files)) if self.is_file else self.folder


class NodeCache:
    """This node's cache, as one process uses it. Raises NodeError where there cannot be one."""

    def __init__(self, root: Path, holds: Holds) -> None:
        self.root, self._holds = root, holds
        self._data, self._code = root / "data", root / "code"

    def code_dir(self, package: str) -> Path:
        """Return the folder for jobs of this code, made and held."""
        _own(self.root, self._code)
        self._holds.hold(self._code / f"{package}.use")
        folder = self._code / package
        folder.mkdir(mode=0o700, exist_ok=True)
        return folder

    def have(self, key: str, make: Callable[[Path], Copy], on_wait: Callable[[], None]) -> Copy:
        """Return this node's copy, held; `make` fills the folder that it is given if there is none, while others wait here.

        `on_wait` is called again and again while this process does, and may raise to end that.
        """
        _own(self.root, self._data)
        with self._locked(key, on_wait):
            found = self._whole(key)
            if found is None:
                self._clear(key)
                found = self._made(key, make)
            self._holds.hold(_use(found.folder))
            return found

    def having(self, digest: str) -> Copy | None:
        """Return a copy with this digest, held, whatever it is of; None: this node has none that is whole."""
        _own(self.root, self._data)
        for file in sorted(self._data.glob("*.json")):
            if _head(file).get("digest") != digest:
                continue
            with self._locked(file.stem):
                found = self._whole(file.stem)
                if found is not None and found.digest == digest:
                    self._holds.hold(_use(found.folder))
                    return found
        return None

    def make_room(self, needed: int, mine: str) -> int:
        """Remove what is long unused, and of the rest what nobody holds until so many bytes are free; return how many are.

        `mine`: a key that the caller has locked.
        """
        if (size := cache_size(os.environ)) is not None and needed > size:
            return size  # nothing that goes would be enough
        for last_used, remove in sorted(self._removable(mine), key=lambda found: found[0]):
            if time.time() - last_used > UNUSED_S or self._free() < needed:
                remove()
        return self._free()

    def _locked(self, key: str, on_wait: Callable[[], None] | None = None) -> contextlib.AbstractContextManager[None]:
        return locked(self._data / f"{key}.lock", on_wait or self._holds.on_wait)

    # ---- what is there

    def _whole(self, key: str) -> Copy | None:
        """The copy of this key, if every file is as it was left, and there is no other."""
        file = self._data / f"{key}.json"
        try:
            head, *lines = file.read_text().splitlines()
            about, files = json.loads(head), [json.loads(line) for line in lines]
            copy = Copy(
                folder=self._data / about["folder"],
                files={path: (size, digest) for path, size, digest, _ in files},
                digest=about["digest"],
                is_file=about["is_file"],
            )
            as_left = {path: (size, changed) for path, size, _, changed in files}
        except (OSError, ValueError, KeyError, TypeError):
            return None  # there is none, or not of a form that is known
        return copy if digest_of(copy.files) == copy.digest and dict(_seen(copy.folder)) == as_left else None

    def _made(self, key: str, make: Callable[[Path], Copy]) -> Copy:
        name = f"{key}-{secrets.token_hex(4)}"
        part = self._data / f"{name}.part"
        part.mkdir(mode=0o700)
        try:
            copy = make(part)
            self._keep(key, name, copy, dict(_seen(part)))
        except BaseException:
            _remove(part)
            raise
        return Copy(folder=self._data / name, files=copy.files, digest=copy.digest, is_file=copy.is_file)

    def _keep(self, key: str, name: str, copy: Copy, seen: Mapping[str, tuple[int, int]]) -> None:
        head = {"digest": copy.digest, "folder": name, "is_file": copy.is_file}
        lines = [[path, *copy.files[path], seen[path][1]] for path in sorted(copy.files)]
        os.rename(self._data / f"{name}.part", self._data / name)
        unfinished = self._data / f"{key}.json.part"
        with unfinished.open("w") as file:
            file.writelines(f"{json.dumps(line)}\n" for line in (head, *lines))
            file.flush()
            os.fsync(file.fileno())
        os.replace(unfinished, self._data / f"{key}.json")

    def _clear(self, key: str) -> None:
        """Remove what is left of copies of this key: of processes that were killed at it, or changed by somebody and no longer held."""
        (self._data / f"{key}.json").unlink(missing_ok=True)
        for folder in self._data.glob(f"{key}-*"):
            if folder.is_dir():
                self._remove_unheld(folder)

    def _remove_unheld(self, folder: Path) -> None:
        if folder.suffix == ".part":
            _remove(folder)
            return
        with try_locked(_use(folder)) as unused:
            if unused:
                _remove(folder)
        if unused:
            _use(folder).unlink(missing_ok=True)

    # ---- what may go

    def _removable(self, mine: str) -> Iterator[tuple[float, Callable[[], None]]]:
        for folder in self._folders(self._data):
            key = folder.name.partition("-")[0]
            if key != mine:
                yield _last_used(folder), lambda folder=folder, key=key: self._remove_copy(folder, key)  # type: ignore[misc]
        for folder in self._folders(self._code):
            yield _last_used(folder), lambda folder=folder: self._remove_code(folder)  # type: ignore[misc]

    def _folders(self, place: Path) -> list[Path]:
        return [found for found in place.iterdir() if found.is_dir()] if place.is_dir() else []

    def _remove_copy(self, folder: Path, key: str) -> None:
        with try_locked(self._data / f"{key}.lock") as free:
            if free:
                file = self._data / f"{key}.json"
                with try_locked(_use(folder)) as unused:
                    if unused and _head(file).get("folder") == folder.name:
                        file.unlink(missing_ok=True)
                self._remove_unheld(folder)

    def _remove_code(self, folder: Path) -> None:
        with try_locked(_use(folder)) as unused:
            if unused:
                _remove(folder)

    def _free(self) -> int:
        free, size = shutil.disk_usage(self.root).free, cache_size(os.environ)
        return free if size is None else max(0, min(free, size - _taken(self.root)))


def _own(*folders: Path) -> None:
    """Make folders that are ours alone. Raises NodeError where one is somebody else's: the place may be one that all can write to."""
    for folder in folders:
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            found = os.lstat(folder)
        except OSError as error:
            raise NodeError(
                f"there cannot be a cache at {folder}, which {CACHE_DIR} names: {error.strerror}"
            ) from error
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
            raise NodeError(f"{folder} is no folder of this user's: name another place for the cache, by {CACHE_DIR}")


def _use(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.use")


def _last_used(folder: Path) -> float:
    for file in (_use(folder), folder):
        with contextlib.suppress(OSError):
            return file.stat().st_mtime
    return 0.0


def _head(file: Path) -> dict[str, object]:
    """What the first line says of a copy; nothing where it cannot be read."""
    try:
        with file.open() as lines:
            found = json.loads(lines.readline())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _seen(folder: Path) -> Iterator[tuple[str, tuple[int, int]]]:
    """The files below a folder: their sizes, and when they were changed."""
    for place, _, names in os.walk(folder):
        for name in names:
            file = os.path.join(place, name)
            found = os.lstat(file)
            yield os.path.relpath(file, folder), (found.st_size, found.st_mtime_ns)


def _taken(folder: Path) -> int:
    """The bytes of disk that are taken below a folder, in which others may be at work."""
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                total += os.lstat(os.path.join(place, name)).st_blocks * 512
    return total


def _remove(folder: Path) -> None:
    """Remove a folder, of which all is read-only."""
    for place, _, _ in os.walk(folder):
        with contextlib.suppress(OSError):
            os.chmod(place, 0o700)
    shutil.rmtree(folder, ignore_errors=True)
