"""Modules of the user's named as one of the standard library or of an installed package: each side gets its own.

A script's folder comes first on sys.path, so `import queue` in a script finds the script's `queue.py`. In a trainer the same name is
needed by torch, Ray and Surefoot, which may import it at any time. So the two get different names: under the plain name stays whatever
would be there without the user's code; the user's module is `surefoot_actors.user_code.users.queue`, and it is what an import
means that stands in the user's code. Only where such names exist is anything of Python's replaced.
"""

from __future__ import annotations

import builtins
import importlib
import os
import sys
from collections.abc import Iterable, Mapping
from importlib.machinery import all_suffixes
from types import FrameType
from typing import Any

from surefoot.spec import refused_module
from surefoot_actors.user_code import places, users
from surefoot_actors.user_code.finder import OWN, UserFinder

__all__ = ["install", "shadowed_names"]


def shadowed_names(folders: Iterable[str], finder: UserFinder) -> frozenset[str]:
    """Return the names of modules in the folders that something else answers to as well."""
    return frozenset(
        name
        for name in {name for folder in folders for name in _modules_in(folder)}
        if refused_module(name) is None and _exists_elsewhere(name, finder)
    )


def _modules_in(folder: str) -> Iterable[str]:
    suffixes = all_suffixes()
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError:
        return
    for entry in entries:
        if entry.is_dir():
            # without __init__ it is a portion of a namespace package, which gives way to whatever else has the name
            if any(os.path.exists(os.path.join(entry.path, f"__init__{suffix}")) for suffix in suffixes):
                yield entry.name
        else:
            yield from (entry.name.removesuffix(s) for s in suffixes if entry.name.endswith(s))


def _exists_elsewhere(name: str, finder: UserFinder) -> bool:
    loaded = sys.modules.get(name)
    if loaded is not None:
        return not places.is_users(getattr(loaded, "__file__", None) or "")
    spec = finder.elsewhere(name)
    return spec is not None and spec.loader is not None


def install(finder: UserFinder) -> frozenset[str]:
    """Let both sides have their own, for as long as the process lives. Returns the names."""
    names = shadowed_names(places.folders(), finder)
    if names:
        users.__path__[:] = places.folders()
        finder.shadowed = names
        _replace_import(names)
        _replace_import_module(names)
    return names


def _replace_import(names: frozenset[str]) -> None:
    """Replace what `__import__` does, for calls of it and for import statements in strings: those in files are rewritten."""
    original = builtins.__import__

    def importing(
        name: str,
        globals: Mapping[str, Any] | None = None,
        locals: Mapping[str, Any] | None = None,
        fromlist: Any = (),
        level: int = 0,
    ) -> Any:
        renamed = name.startswith(f"{OWN}.")  # by renaming.py
        top = name.removeprefix(f"{OWN}.").partition(".")[0]
        if level or top not in names or not (renamed or _is_users(globals, sys._getframe(1))):
            return original(name, globals, locals, fromlist, level)
        try:
            found = original(name if renamed else f"{OWN}.{name}", globals, locals, fromlist, 0)
        except ImportError as error:
            _say_plain_name(error)
            raise
        return found if fromlist or renamed else sys.modules[f"{OWN}.{top}"]

    builtins.__import__ = importing


def _replace_import_module(names: frozenset[str]) -> None:
    original = importlib.import_module

    def import_module(name: str, package: str | None = None) -> Any:
        if name.partition(".")[0] not in names or not _is_users(None, sys._getframe(1)):
            return original(name, package)
        try:
            return original(f"{OWN}.{name}", package)
        except ImportError as error:
            _say_plain_name(error)
            raise

    importlib.import_module = import_module


def _is_users(namespace: Mapping[str, Any] | None, frame: FrameType | None) -> bool:
    """Whether an import stands in the user's code, by its module's file; for code that was made from a string, by who runs it."""
    file = (namespace or {}).get("__file__")
    while file is None and frame is not None:
        name = frame.f_code.co_filename
        file = None if name.startswith("<") else name
        frame = frame.f_back
    return isinstance(file, str) and places.is_users(file)


def _say_plain_name(error: ImportError) -> None:
    """Speak of the module by the name that the user gave it."""
    if error.name and error.name.startswith(f"{OWN}."):
        error.name = error.name.removeprefix(f"{OWN}.")
    error.msg = str(error.msg).replace(f"{OWN}.", "")
    error.args = (error.msg, *error.args[1:])
