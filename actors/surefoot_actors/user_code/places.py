"""Where the user's code lies: which files are the user's, and how a file is named to the user."""

from __future__ import annotations

import os
import sys
import sysconfig
from collections.abc import Iterable
from functools import lru_cache

__all__ = [
    "FOLDERS",
    "file_of",
    "folders",
    "folders_from_environment",
    "is_below",
    "is_users",
    "relative",
    "set_folders",
    "shown",
]

# Environment: the folders that user code is imported from, for processes that this one starts.
FOLDERS = "SUREFOOT_CODE"

_INSTALLED = tuple(f"{os.sep}{name}{os.sep}" for name in ("site-packages", "dist-packages"))
# Surefoot itself may be run from a folder of the user's.
_OURS = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep
_STANDARD = tuple(os.path.realpath(sysconfig.get_path(name)) + os.sep for name in ("stdlib", "platstdlib"))

_folders: tuple[str, ...] = ()


def set_folders(new: Iterable[str]) -> tuple[str, ...]:
    """Say which folders user code is imported from, the first first; return those before."""
    global _folders
    before, _folders = _folders, tuple(dict.fromkeys(os.path.abspath(folder) for folder in new))
    for cached in (is_users, relative, shown):
        cached.cache_clear()
    os.environ.pop(FOLDERS, None)
    if _folders:
        os.environ[FOLDERS] = os.pathsep.join(_folders)
    return before


def folders() -> tuple[str, ...]:
    """The folders that user code is imported from."""
    return _folders


def folders_from_environment() -> list[str]:
    """The same, in a process that another one started."""
    return [folder for folder in os.environ.get(FOLDERS, "").split(os.pathsep) if folder]


@lru_cache(maxsize=4096)
def is_users(file: str) -> bool:
    """Whether a source file is the user's: below one of the folders, and no installed package, as in an environment that lies there."""
    path = os.path.abspath(file)
    inside = next((folder for folder in _real(_folders) if is_below(path, folder)), None)
    if inside is None:
        return False
    rest = path[len(inside) :]
    return not (
        any(part in rest for part in _INSTALLED)
        or path.startswith((_OURS, *_STANDARD))
        or (sys.prefix != inside and is_below(path, sys.prefix) and is_below(sys.prefix, inside))
    )


@lru_cache(maxsize=4096)
def relative(file: str) -> str | None:
    """The path of a file of the user's as the package has it, with slashes; None for any other file."""
    path = os.path.abspath(file)
    inside = [folder for folder in _real(_folders) if is_below(path, folder)]
    if not inside:
        return None
    # the widest: a script's own folder lies in the package's
    return os.path.relpath(path, min(inside, key=len)).replace(os.sep, "/")


@lru_cache(maxsize=4096)
def shown(file: str) -> str:
    """How messages name a source file: by its last part, or by its path in the package where that part alone could be another's."""
    name = os.path.basename(file)
    return (relative(file) or name) if is_users(file) and _is_ambiguous(file, name) else name


def _is_ambiguous(file: str, name: str) -> bool:
    if name == "__init__.py":
        return True
    others = [other for module in tuple(sys.modules.values()) if (other := file_of(module)) is not None]
    return any(other != file and os.path.basename(other) == name and is_users(other) for other in others)


def file_of(module: object) -> str | None:
    """Return a module's file, if it has one. Asked in any other way, modules that are loaded lazily are imported."""
    try:
        values = object.__getattribute__(module, "__dict__")
    except AttributeError:
        return None
    file = values.get("__file__")
    return file if isinstance(file, str) else None


def is_below(path: str, folder: str) -> bool:
    """Whether an absolute path lies in a folder."""
    return path.startswith(folder.rstrip(os.sep) + os.sep)


def _real(given: tuple[str, ...]) -> tuple[str, ...]:
    """The folders, also as they are without symbolic links: Python names files by the path it was told."""
    return tuple(dict.fromkeys((*given, *map(os.path.realpath, given))))
