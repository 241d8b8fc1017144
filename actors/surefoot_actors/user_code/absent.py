"""Whether what user code misses was left out of its package, or is elsewhere than the trainer looks."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator, Mapping

from surefoot_actors.user_code import places
from surefoot_actors.user_code.finder import OWN

__all__ = ["say_absent", "text_of"]

# As Python writes them; an error of a data worker comes back with its message alone.
_NO_MODULE = re.compile(r"No module named '([\w.]+)'")
_NO_NAME = re.compile(r"cannot import name '(\w+)' from '([\w.]+)'")
_NO_FILE = re.compile(r"No such file or directory: '([^']+)'")


def text_of(error: BaseException) -> str:
    """The error's message, with the user's names of modules."""
    try:
        return str(error).replace(f"{OWN}.", "")
    except Exception as failed:  # noqa: BLE001  its __str__ is the user's: what it was about must be told all the same
        return f"its message cannot be had: __str__ raised {type(failed).__name__}"


def say_absent(error: BaseException, left_out: Mapping[str, str]) -> str:
    """Say why the file or module that `error` misses is not there, and what to do; empty where that is not known.

    `left_out`: paths in the package's folder that are not in the package, those of folders with a slash at the end, and why.
    """
    if isinstance(error, ImportError):
        return _say_no_module(error, left_out)
    return _say_no_file(error, left_out) if isinstance(error, FileNotFoundError) else ""


def _say_no_module(error: ImportError, left_out: Mapping[str, str]) -> str:
    modules = list(_modules(error))
    for file in (file for module in modules for file in _files_of(module)):
        if said := _say_left_out(file, left_out):
            return said
    return _say_not_installed(modules[0]) if modules and isinstance(error, ModuleNotFoundError) else ""


def _say_no_file(error: FileNotFoundError, left_out: Mapping[str, str]) -> str:
    for file in _files(error):
        path = _in_package(file)
        if path is None:
            return (
                f"{file} is no file of the package: a trainer sees the package and what its own node has; "
                f"give it a path that every node has"
            )
        if said := _say_left_out(path, left_out):
            return said
    return ""


def _modules(error: ImportError) -> Iterator[str]:
    message = text_of(error)
    if found := _NO_NAME.search(message):
        yield f"{found[2]}.{found[1]}"
    elif found := _NO_MODULE.search(message):
        yield found[1]
    elif isinstance(error, ModuleNotFoundError) and error.name:  # importlib.metadata's: the name of a distribution
        yield str(error.name).removeprefix(f"{OWN}.")


def _files_of(module: str) -> Iterator[str]:
    path = module.replace(".", "/")
    for prefix in _prefixes():
        yield from (
            f"{prefix}{path}{ending}" for ending in (".py", "/__init__.py", ".so", ".pyc", ".egg-info/PKG-INFO")
        )


def _prefixes() -> Iterator[str]:
    """What the folders that code is imported from are called in the package."""
    top = _top()
    for folder in places.folders():
        inside = os.path.relpath(folder, top).replace(os.sep, "/")
        yield "" if inside == "." else f"{inside}/"


def _top() -> str:
    """The package's folder: the other folders lie in it."""
    return min(places.folders(), key=len, default=os.getcwd())


def _files(error: FileNotFoundError) -> Iterator[str]:
    for name in (error.filename, error.filename2):
        if isinstance(name, str | bytes):
            yield os.fsdecode(name)
    if error.filename is None:
        yield from _NO_FILE.findall(text_of(error))


def _in_package(file: str) -> str | None:
    """The path in the package that a program means by `file`; None: it lies elsewhere."""
    path, top = os.path.normpath(os.path.join(os.getcwd(), file)), _top()
    for base in (top, os.path.realpath(top)):
        if places.is_below(path, base):
            return os.path.relpath(path, base).replace(os.sep, "/").encode(errors="backslashreplace").decode()
    return None


def _say_left_out(path: str, left_out: Mapping[str, str]) -> str:
    for out, why in left_out.items():
        if (
            path == out
            or path == out.rstrip("/")
            or (out.endswith("/") and path.startswith(out))
            or path.startswith(f"{out}/")
        ):
            advice = (
                f"add `!{out}` to .surefootignore"
                if why.startswith("by ")
                else "put in its place what trainers are to find"
            )
            return f"{out} was left out of the package {why}; {advice}"
    return ""


def _say_not_installed(module: str) -> str:
    top = module.partition(".")[0]
    if top in sys.stdlib_module_names or module != top:
        return ""
    return f"{top!r} is neither in the package nor installed on this node: if it is a library, name it in the job's pip requirements"
