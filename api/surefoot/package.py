"""The code package: a folder as a zip, the same bytes for the same files, so that its sha256 names the code.

Deterministic on every machine: entries are sorted, have one timestamp and one of two modes, and are stored, not deflated (compressors
differ between zlib builds, and the digest is part of what defines a job; code is small).
"""

from __future__ import annotations

import hashlib
import io
import os
import stat
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from surefoot._ignore import Rules
from surefoot.errors import PackageError

__all__ = ["MAX_FILES", "MAX_PACKAGE_BYTES", "CodePackage", "pack"]

# Ray's Jobs API takes no larger upload.
MAX_PACKAGE_BYTES = 100 * 1024 * 1024
# The control plane takes no more entries.
MAX_FILES = 20_000

# What a zip adds to a file: a local header, a central one, and its name in both.
_ENTRY_BYTES = 30 + 46

_HOW_TO_IGNORE = (
    "write the data's names or patterns into .surefootignore (as in .gitignore), and read data from a path or URL that "
    "the trainers can reach"
)

_EPOCH = (1980, 1, 1, 0, 0, 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class CodePackage:
    """A folder, packed."""

    # of the zip's bytes, hex
    sha256: str
    data: bytes = field(repr=False)
    # paths in the package, sorted
    files: tuple[str, ...] = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class _File:
    # path in the package, with slashes
    name: str
    # where it is read from
    path: Path
    num_bytes: int
    executable: bool


def pack(folder: str | os.PathLike[str]) -> CodePackage:
    """Pack what belongs to the code in `folder`.

    Symbolic links are followed where they lead inside the folder. Raises PackageError for links that lead outside, for more than
    100 MiB, for a folder without files, and for the home folder or the root.
    """
    root = Path(folder).expanduser().resolve()
    _refuse_the_wrong_folder(root)
    files = sorted(_walk(root, "", (root,), Rules.above(root)), key=lambda file: file.name)
    if not files:
        raise PackageError(f"there is nothing to package in {root}: every file is ignored, or there is none")
    _check_sizes(files, root)
    data = _zip(files)
    return CodePackage(sha256=hashlib.sha256(data).hexdigest(), data=data, files=tuple(file.name for file in files))


def _refuse_the_wrong_folder(root: Path) -> None:
    if not root.is_dir():
        raise PackageError(f"there is no folder {root}")
    home = Path.home().resolve()
    if root == home or root in home.parents:
        raise PackageError(
            f"{root} is {'the home folder' if root == home else 'above the home folder'}: give the folder of the code alone"
        )


# ---- what is in it


def _walk(folder: Path, prefix: str, trail: tuple[Path, ...], rules: Rules) -> Iterator[_File]:
    """Yield the files below `folder`; `trail` is the folders from the root to it, links resolved."""
    rules, root = rules.entering(folder), trail[0]
    for path in _children(folder):
        name, is_folder = prefix + path.name, path.is_dir()
        if rules.ignore(path, is_folder=is_folder):
            continue
        _check_utf8(name, root)
        if path.is_symlink():
            _check_link(path, trail)
        if is_folder:
            yield from _walk(path, f"{name}/", (*trail, path.resolve()), rules)
        elif path.is_file():  # sockets, pipes and devices are no code
            info = path.stat()
            yield _File(name=name, path=path, num_bytes=info.st_size, executable=bool(info.st_mode & stat.S_IXUSR))


def _children(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError as error:
        raise PackageError(f"the folder {folder} cannot be read: {error.strerror or error}") from error


def _check_link(path: Path, trail: tuple[Path, ...]) -> None:
    root = trail[0]
    try:
        target = path.resolve(strict=True)
    except (OSError, RuntimeError):
        raise PackageError(
            f"the link {path} leads nowhere (to {os.readlink(path)!r}): remove it, or ignore it in .surefootignore"
        ) from None
    if not target.is_relative_to(root):
        raise PackageError(
            f"the link {path} leads outside {root}, to {target}: copy what is needed, or ignore it in .surefootignore"
        )
    if target in trail:
        raise PackageError(f"the link {path} leads to a folder that it lies in, {target}: ignore it in .surefootignore")


def _check_utf8(name: str, root: Path) -> None:
    try:
        name.encode()
    except UnicodeEncodeError:
        raise PackageError(
            f"the file name {name!r} in {root} is not UTF-8: rename it, or ignore it in .surefootignore"
        ) from None


def _check_sizes(files: list[_File], root: Path) -> None:
    if len(files) > MAX_FILES:
        raise PackageError(f"{root} has {len(files):,} files, and a package may have {MAX_FILES:,}: {_HOW_TO_IGNORE}")
    total = sum(file.num_bytes + _ENTRY_BYTES + 2 * len(file.name.encode()) for file in files)
    if total <= MAX_PACKAGE_BYTES:
        return
    largest = sorted(files, key=lambda file: (-file.num_bytes, file.name))[:8]
    lines = [f"  {_mib(file.num_bytes):>12}  {file.name}" for file in largest]
    intro = f"{root} has {_mib(total)} of files, and a package may have {_mib(MAX_PACKAGE_BYTES)}. The largest:"
    raise PackageError("\n".join([intro, *lines, f"Packages are for code: {_HOW_TO_IGNORE}"]))


def _mib(num_bytes: int) -> str:
    return f"{num_bytes / 2**20:,.1f} MiB"


# ---- the zip


def _zip(files: list[_File]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for file in files:
            info = zipfile.ZipInfo(file.name, date_time=_EPOCH)
            info.create_system = 3  # Unix, whatever packs it
            info.external_attr = (stat.S_IFREG | (0o755 if file.executable else 0o644)) << 16
            archive.writestr(info, _read(file))
    return buffer.getvalue()


def _read(file: _File) -> bytes:
    try:
        return file.path.read_bytes()
    except OSError as error:
        raise PackageError(f"{file.path} cannot be read: {error.strerror or error}") from error
