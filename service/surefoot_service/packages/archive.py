"""Code packages: zips that are taken in, checked without ever being unpacked or imported, and kept under their hash."""

from __future__ import annotations

import hashlib
import io
import os
import re
import secrets
import stat
import tempfile
import zipfile
import zlib
from collections.abc import AsyncIterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import BinaryIO

from surefoot.errors import PackageError, SurefootError
from surefoot.spec import CODE_FOLDER
from surefoot_service.durable import sync_folder
from surefoot_service.settings import Settings
from surefoot_service.waiting import Kind, Waiting

__all__ = ["FolderError", "Limits", "PackageStore", "TooLargeError", "check_zip", "for_ray", "limits_of"]

_CHUNK = 1024 * 1024
# Text packs about 10:1, zeros 1000:1; a package that is all generated data can still go up in several files.
_MAX_RATIO = 200
# below this a ratio says nothing
_RATIO_FROM_BYTES = 10 * _CHUNK
_COMPRESSIONS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_ENCRYPTED = 0x1
_FILE = re.compile(r"^[0-9a-f]{64}\.zip$")
# what every file system takes, with a folder before it: as long as Linux's PATH_MAX is, and no deeper than anybody's code
_MAX_PATH_BYTES = 1024
_MAX_NAME_BYTES = 255
_MAX_PARTS = 64
# what an entry takes in a zip's table of contents, its path among it, on average
_ENTRY_BYTES = 300


class TooLargeError(PackageError):
    """An upload above the limit."""


class FolderError(SurefootError):
    """The folder of packages cannot be written: full, or away."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a package may be."""

    packed_bytes: int
    unpacked_bytes: int
    entries: int


def for_ray(path: Path) -> bytes:
    """Return the package as Ray is to unpack it: one folder down (see CODE_FOLDER)."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(path) as archive, zipfile.ZipFile(buffer, "w") as out:
        for member in archive.infolist():
            below = zipfile.ZipInfo(f"{CODE_FOLDER}/{member.filename}", member.date_time)
            below.compress_type, below.external_attr = member.compress_type, member.external_attr
            below.create_system = member.create_system
            out.writestr(below, b"" if member.is_dir() else archive.read(member))
    return buffer.getvalue()


def limits_of(settings: Settings) -> Limits:
    return Limits(
        packed_bytes=settings.max_package_bytes,
        unpacked_bytes=settings.max_unpacked_bytes,
        entries=settings.max_package_entries,
    )


def check_zip(path: Path, limits: Limits) -> None:
    """Raise PackageError unless the zip is one that can be unpacked without harm, having decompressed all of it, bounded."""
    try:
        _check_size_of_contents(path, limits)
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            if len(members) > limits.entries:
                raise PackageError(f"the package has {len(members)} entries; at most {limits.entries} are taken")
            seen: set[str] = set()
            for member in members:
                _check_name(member.filename, seen)
                _check_kind(member)
            if not any(not m.is_dir() for m in members):
                raise PackageError("the package is empty")
            _check_tree(members)
            _check_contents(archive, members, limits)
    except (
        zipfile.BadZipFile,
        zlib.error,
        EOFError,
        NotImplementedError,
        UnicodeDecodeError,
        ValueError,
        OSError,
    ) as error:
        if isinstance(error, PackageError):
            raise
        raise PackageError(f"the package is not a sound zip: {error}") from error


def _check_size_of_contents(path: Path, limits: Limits) -> None:
    """Refuse a table of contents longer than one of `limits.entries` can be, before zipfile makes an object of each entry."""
    with path.open("rb") as file:
        # zipfile's own reading of where the table lies, so that no other is checked than the one it will read
        found = zipfile._EndRecData(file)  # type: ignore[attr-defined]
    if found is not None and found[_TABLE_BYTES] > 64 * 1024 + limits.entries * _ENTRY_BYTES:
        raise PackageError(f"the package has too many entries, or too long ones; at most {limits.entries} are taken")


# where zipfile has the length of the table of contents in what it reads of a zip's end
_TABLE_BYTES = 5


def _check_name(name: str, seen: set[str]) -> None:
    if not name or "\0" in name:
        raise PackageError("the package has an entry without a name")
    # before anything is made of its parts
    parts = name.split("/")
    if len(parts) > _MAX_PARTS or len(name.encode("utf-8", "replace")) > _MAX_PATH_BYTES:
        raise PackageError(
            f"the package has a path of {len(parts)} parts and {len(name)} characters: {name[:100]!r}..."
        )
    if any(len(part.encode("utf-8", "replace")) > _MAX_NAME_BYTES for part in parts):
        raise PackageError(f"the package has a name of more than {_MAX_NAME_BYTES} bytes: {name[:100]!r}...")
    windows = PureWindowsPath(name)
    if name.startswith("/") or windows.is_absolute() or windows.drive or "\\" in name:
        raise PackageError(f"the package has an absolute path, or one with backslashes: {name!r}")
    if ".." in PurePosixPath(name).parts:
        raise PackageError(f'the package has a path with "..": {name!r}')
    plain = str(PurePosixPath(name))
    if plain in seen:
        raise PackageError(f"the package has {plain!r} twice")
    seen.add(plain)


def _check_tree(members: list[zipfile.ZipInfo]) -> None:
    files = {str(PurePosixPath(m.filename)) for m in members if not m.is_dir()}
    for member in members:
        plain = str(PurePosixPath(member.filename))
        for end, character in enumerate(plain):
            if character == "/" and plain[:end] in files:
                raise PackageError(f"the package has {plain[:end]!r} as both a file and a folder")


def _check_kind(member: zipfile.ZipInfo) -> None:
    mode = member.external_attr >> 16
    kind = stat.S_IFMT(mode)
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        what = "a symbolic link" if kind == stat.S_IFLNK else "a special file"
        raise PackageError(f"the package has {what}: {member.filename!r}; only files and folders are taken")
    if member.flag_bits & _ENCRYPTED:
        raise PackageError(f"the package has an encrypted entry: {member.filename!r}")
    if member.compress_type not in _COMPRESSIONS:
        raise PackageError(f"{member.filename!r} is packed by a method other than deflate")


def _check_contents(archive: zipfile.ZipFile, members: list[zipfile.ZipInfo], limits: Limits) -> None:
    """Decompress everything, counting, and stop at the first byte too many: headers may lie."""
    total = 0
    for member in members:
        size = 0
        with archive.open(member) as file:
            while chunk := file.read(_CHUNK):
                size += len(chunk)
                total += len(chunk)
                if total > limits.unpacked_bytes:
                    raise PackageError(f"the package unpacks to more than {limits.unpacked_bytes} bytes")
                if size > _RATIO_FROM_BYTES and size > _MAX_RATIO * max(1, member.compress_size):
                    raise PackageError(
                        f"{member.filename!r} unpacks to over {_MAX_RATIO} times its packed size: a zip bomb"
                    )
        if size != member.file_size:
            raise PackageError(f"{member.filename!r} is not as long as the zip says")


class PackageStore:
    """Packages as files named by their sha256, in one folder. A file under its name is complete and checked."""

    def __init__(self, folder: Path, limits: Limits) -> None:
        self._folder, self._limits = folder, limits
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        # What an interrupted service left of its uploads.
        for partial in (*folder.glob(".upload-*"), *folder.glob(".removed-*")):
            partial.unlink(missing_ok=True)

    @property
    def folder(self) -> Path:
        return self._folder

    def path(self, sha256: str) -> Path:
        return self._folder / f"{sha256}.zip"

    def stored(self) -> list[str]:
        """Return the packages that there are files of. Raises OSError where the folder cannot be read."""
        return sorted(f.stem for f in self._folder.iterdir() if _FILE.match(f.name))

    def is_older(self, sha256: str, before: float) -> bool:
        """Whether there is a file of the package, and it was stored before this unix time."""
        try:
            return self.path(sha256).stat().st_mtime < before
        except FileNotFoundError:
            return False

    def remove(self, sha256: str, before: float) -> bool:
        """Remove a package's file, unless it was stored (again) since `before`, a unix time; return whether it was removed.

        An upload may put the file there at any moment: so it is taken aside first, looked at, and put back if it is new.
        """
        aside = self._folder / f".removed-{sha256}-{secrets.token_hex(4)}"
        try:
            self.path(sha256).rename(aside)
        except FileNotFoundError:
            return False
        if aside.stat().st_mtime >= before:
            aside.replace(self.path(sha256))
            return False
        aside.unlink()
        return True

    def has(self, sha256: str, size: int) -> bool:
        """Whether the file is there, with this size: what is recorded of it may outlive it. Blocks."""
        try:
            return self.path(sha256).stat().st_size == size
        except FileNotFoundError:
            return False

    async def receive(self, body: AsyncIterable[bytes], waiting: Waiting) -> tuple[str, int]:
        """Take in an upload; return its sha256 and size. Leaves nothing behind of one that it refuses or that breaks off.

        Raises PackageError or TooLargeError for what was sent, FolderError where it cannot be stored.
        """
        with self._partial() as partial:
            sha256, size = await self._write(partial, body, waiting)
            await waiting.run(Kind.PACKAGES, check_zip, partial, self._limits)
            with _folder_errors():
                await waiting.run(Kind.PACKAGES, partial.replace, self.path(sha256))
                await waiting.run(Kind.PACKAGES, sync_folder, self._folder)
        return sha256, size

    async def _write(self, partial: Path, body: AsyncIterable[bytes], waiting: Waiting) -> tuple[str, int]:
        hasher, size, pieces = hashlib.sha256(), 0, bytearray()
        with _folder_errors(), partial.open("wb") as file:
            async for chunk in body:
                size += len(chunk)
                if size > self._limits.packed_bytes:
                    raise TooLargeError(f"the package is above {self._limits.packed_bytes} bytes; leave data out of it")
                pieces += chunk
                if len(pieces) >= _CHUNK:
                    await waiting.run(Kind.PACKAGES, _append, file, hasher, bytes(pieces))
                    pieces.clear()
            await waiting.run(Kind.PACKAGES, _append, file, hasher, bytes(pieces))
            await waiting.run(Kind.PACKAGES, os.fsync, file.fileno())
        return hasher.hexdigest(), size

    @contextmanager
    def _partial(self) -> Iterator[Path]:
        with _folder_errors():
            handle, name = tempfile.mkstemp(prefix=".upload-", dir=self._folder)
        os.close(handle)
        try:
            yield Path(name)
        finally:
            Path(name).unlink(missing_ok=True)


def _append(file: BinaryIO, hasher: hashlib._Hash, piece: bytes) -> None:
    """Write a piece and hash it; the disk's pace is a thread's."""
    hasher.update(piece)
    file.write(piece)
    file.flush()


@contextmanager
def _folder_errors() -> Iterator[None]:
    try:
        yield
    except ConnectionError:
        raise  # of whoever sends the body
    except OSError as error:
        raise FolderError(f"the folder of packages cannot be written: {error.strerror or error}") from error
