"""The code package: a folder as a zip, the same bytes for the same files, so that its sha256 names the code.

Deterministic on every machine: entries are sorted, have one timestamp and one of two modes, and are stored, not deflated (compressors
differ between zlib builds, and the digest is part of what defines a job; code is small).

What `python train.py` finds in the folder is there for a trainer: symbolic links are followed, empty folders exist. What stays out is
told by name and reason (`CodePackage.left_out`), and travels with the job's spec, so that a trainer that misses it can say why.
"""

from __future__ import annotations

import hashlib
import io
import os
import stat
import zipfile
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from surefoot._ignore import UNTOLD, Rules
from surefoot._paths import folder_at
from surefoot.errors import PackageError

__all__ = ["MAX_FILES", "MAX_PACKAGE_BYTES", "CodePackage", "LeftOut", "pack"]

# Ray's Jobs API takes no upload of 100 MiB, and the entries' names are a little longer there.
MAX_PACKAGE_BYTES = 99 * 1024 * 1024
# The control plane takes no more entries.
MAX_FILES = 20_000

# Where the walk ends: it is refused long before, and a link may lead to a whole disk.
_MOST_WALKED = 10 * MAX_FILES

# What a zip adds to a file: a local header, a central one, and its name in both.
_ENTRY_BYTES = 30 + 46

_HOW_TO_IGNORE = (
    "write the data's names or patterns into .surefootignore (as in .gitignore), and read data from a path or URL that "
    "the trainers can reach"
)

_EPOCH = (1980, 1, 1, 0, 0, 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftOut:
    """A file or folder that is not in the package."""

    # in the folder, with slashes; a folder's ends with one
    path: str
    # "by .gitignore line 3 (*.yaml)", "since the link leads nowhere"
    why: str

    def __str__(self) -> str:
        return f"{self.path} ({self.why.removeprefix('by ')})"


@dataclass(frozen=True, slots=True, kw_only=True)
class CodePackage:
    """A folder, packed."""

    # of the zip's bytes, hex
    sha256: str
    data: bytes = field(repr=False)
    # paths in the package, sorted
    files: tuple[str, ...] = field(repr=False)
    # what stays out, by path; but for caches and the like, which no program reads
    left_out: tuple[LeftOut, ...] = field(repr=False, default=())


@dataclass(frozen=True, slots=True, kw_only=True)
class _File:
    # path in the package, with slashes; that of an empty folder ends with one
    name: str
    # where it is read from
    path: Path
    num_bytes: int = 0
    executable: bool = False


def pack(folder: str | os.PathLike[str], more: Mapping[str, Path] | None = None) -> CodePackage:
    """Pack what belongs to the code in `folder`, and `more` files, by their names at its root.

    Symbolic links are followed, but for those that lead nowhere, to a folder that they lie in, or to the home folder or above it.
    Raises PackageError for more than 99 MiB, for a folder without files, and for the home folder or the root.
    """
    root = folder_at(folder, PackageError)
    _refuse_the_wrong_folder(root)
    found = list(islice(_walk(root, "", (root,), Rules.above(root)), _MOST_WALKED))
    added = [_File(name=name, path=path, num_bytes=path.stat().st_size) for name, path in (more or {}).items()]
    there = [entry for entry in found if isinstance(entry, _File) and entry.name not in (more or {})]
    entries = sorted([*there, *added], key=lambda entry: entry.name)
    files = tuple(entry.name for entry in entries if not entry.name.endswith("/"))
    if not files:
        raise PackageError(f"there is nothing to package in {root}: every file is ignored, or there is none")
    _check_sizes(entries, root)
    data = _zip(entries)
    left_out = sorted((entry for entry in found if isinstance(entry, LeftOut)), key=lambda entry: entry.path)
    return CodePackage(sha256=hashlib.sha256(data).hexdigest(), data=data, files=files, left_out=tuple(left_out))


def _refuse_the_wrong_folder(root: Path) -> None:
    home = Path.home().resolve()
    if root == home or root in home.parents:
        raise PackageError(
            f"{root} is {'the home folder' if root == home else 'above the home folder'}: give the folder of the code alone"
        )


# ---- what is in it


def _walk(folder: Path, prefix: str, trail: tuple[Path, ...], rules: Rules) -> Iterator[_File | LeftOut]:
    """Yield what lies below `folder`, and what stays out of it; `trail` is the folders from the root to it, links resolved."""
    rules, children = rules.entering(folder), _children(folder)
    # a folder whose own .gitignore leaves out that too is none of the code's; any other is there, though empty
    own = bool(prefix) and any(
        path.name == ".gitignore" and rules.ignored_by(path, is_folder=False) for path in children
    )
    empty = bool(prefix) and not own
    for path in children:
        name, is_folder = prefix + path.name, path.is_dir()
        by = rules.ignored_by(path, is_folder=is_folder)
        why = f"by {by}" if by else _unfit(path, trail)
        if why is not None:
            if not own and path.name not in UNTOLD and not _is_compiled(path):
                yield LeftOut(path=_printable(name) + "/" * is_folder, why=why)
            continue
        empty = False
        if is_folder:
            yield from _walk(path, f"{name}/", (*trail, path.resolve()), rules)
        else:
            info = path.stat()
            yield _File(name=name, path=path, num_bytes=info.st_size, executable=bool(info.st_mode & stat.S_IXUSR))
    if empty:
        yield _File(name=prefix, path=folder)


def _children(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError as error:
        raise PackageError(f"the folder {folder} cannot be read: {error.strerror or error}") from error


def _is_compiled(path: Path) -> bool:
    """Whether this is what Python keeps of a source file beside it."""
    return path.suffix in (".pyc", ".pyo") and path.with_suffix(".py").exists()


def _unfit(path: Path, trail: tuple[Path, ...]) -> str | None:
    """Say why `path` cannot be packed; None: it can."""
    if "\\" in path.name:
        return "since its name has a backslash"
    if _printable(path.name) != path.name:
        return "since its name is not UTF-8"
    if path.is_symlink():
        return _unfit_link(path, trail)
    return None if path.is_dir() or path.is_file() else "since it is a socket, pipe or device"


def _unfit_link(path: Path, trail: tuple[Path, ...]) -> str | None:
    try:
        target = path.resolve(strict=True)
    except (OSError, RuntimeError):
        return f"since the link leads nowhere (to {_printable(os.readlink(path))!r})"
    if target in trail:
        return "since the link leads to a folder that it lies in"
    home = Path.home().resolve()
    if target == home or target in home.parents:
        return f"since the link leads to {'the home folder' if target == home else 'a folder above the home folder'}"
    return None if target.is_dir() or target.is_file() else "since the link leads to a socket, pipe or device"


def _printable(name: str) -> str:
    """The name, with what is not UTF-8 as escapes."""
    return name.encode(errors="backslashreplace").decode()


def _check_sizes(files: list[_File], root: Path) -> None:
    if len(files) > MAX_FILES:
        most = Counter(file.name.partition("/")[0] for file in files).most_common(1)[0]
        raise PackageError(
            f"{root} has {len(files):,} files{' or more' * (len(files) >= _MOST_WALKED)}, and a package may have {MAX_FILES:,} "
            f"(the most, {most[1]:,}, in {most[0]}): {_HOW_TO_IGNORE}"
        )
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
            if info.is_dir():
                info.external_attr = (stat.S_IFDIR | 0o755) << 16
                archive.writestr(info, b"")
                continue
            info.external_attr = (stat.S_IFREG | (0o755 if file.executable else 0o644)) << 16
            archive.writestr(info, _read(file))
    return buffer.getvalue()


def _read(file: _File) -> bytes:
    try:
        return file.path.read_bytes()
    except OSError as error:
        raise PackageError(f"{file.path} cannot be read: {error.strerror or error}") from error
