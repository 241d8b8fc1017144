"""Loads the user's train function in a trainer. Nothing else of Surefoot ever imports user code.

A trainer finds code as `python train.py` does in the package's folder: that is the working directory and comes first on sys.path (a
script in a folder below: its own folder), sys.argv is the script alone, and relative folders of PYTHONPATH are looked for in it.
"""

from __future__ import annotations

import importlib
import inspect
import os
import sys
from collections.abc import Sequence
from typing import Any

from surefoot.contract import TrainFunction
from surefoot.errors import EntrypointError
from surefoot.spec import CODE_FOLDER, named_file, refused_module
from surefoot_actors.determinism.rng import Streams
from surefoot_actors.user_code import places, shadows
from surefoot_actors.user_code.finder import OWN, UserFinder

__all__ = ["check_function", "load"]


def load(entrypoint: str, streams: Streams) -> TrainFunction:
    """Import "module:function", or "folder/script.py:function", from the package or the installed packages, under the job's seed.

    For the life of this process, whose working directory and sys.path are the package's from now on. Raises EntrypointError where
    the function is missing; whatever the module's import raises goes through.
    """
    where, _, function_name = entrypoint.partition(":")
    bases = _enter()
    script = named_file(entrypoint)
    own = _script_folder(script or f"{where.replace('.', '/')}.py", bases, certain=script is not None)
    folders = [*own, *bases] if script else [*bases, *own]
    module_name = os.path.basename(script).removesuffix(".py") if script else where
    if refused := refused_module(module_name):
        raise EntrypointError(f"{entrypoint} cannot be imported: {refused}")
    names = _import_from(folders, streams)
    sys.argv = [script or f"{where.replace('.', '/')}.py"]
    if module_name.partition(".")[0] in names:
        module_name = f"{OWN}.{module_name}"
    return _function(importlib.import_module(module_name), function_name)


def _enter() -> list[str]:
    """Make the package's folder the working directory, if it is known; return the folders that modules are looked for in."""
    if os.path.isdir(CODE_FOLDER):
        os.chdir(CODE_FOLDER)
    here = os.getcwd()
    relative = [
        entry for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry and not os.path.isabs(entry)
    ]
    return [*(places.folders() or [here]), *(os.path.join(here, entry) for entry in relative)]


def _script_folder(script: str, bases: Sequence[str], *, certain: bool) -> list[str]:
    """The folder that a script lies in, from which it imports; that of a module, unless it is a package's, which imports from above."""
    file = next((path for base in bases if os.path.isfile(path := os.path.join(base, script))), None)
    if file is None:
        return []
    folder = os.path.dirname(file)
    return [folder] if certain or not os.path.exists(os.path.join(folder, "__init__.py")) else []


def _import_from(folders: Sequence[str], streams: Streams) -> frozenset[str]:
    """Look for modules in these folders first, from now on; return the names that something else has too."""
    sys.path[:] = [*dict.fromkeys(folders), *(entry for entry in sys.path if entry not in folders)]
    places.set_folders(folders)
    finder = UserFinder(streams)
    sys.meta_path.insert(0, finder)
    importlib.invalidate_caches()
    return shadows.install(finder)


def _function(module: Any, name: str) -> TrainFunction:
    function = getattr(module, name, None)
    if not callable(function):
        names = sorted(
            n
            for n, value in vars(module).items()
            if callable(value) and getattr(value, "__module__", "") == module.__name__
        )
        raise EntrypointError(
            f"module {module.__name__.removeprefix(OWN + '.')!r} has no function {name!r}; "
            f"it defines: {', '.join(names) or 'no function at all'}"
        )
    check_function(function)
    return function  # type: ignore[no-any-return]


def check_function(function: Any) -> None:
    """Raise EntrypointError for what a call would not run: a generator, a coroutine, a class."""
    name = getattr(function, "__qualname__", repr(function))
    if inspect.isclass(function):
        raise EntrypointError(f"{name} is a class: a train function is a plain function, called once with the run")
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise EntrypointError(f"{name} has a yield, so a call of it runs nothing: a train function is a plain function")
    if inspect.iscoroutinefunction(function):
        raise EntrypointError(f"{name} is async, so a call of it runs nothing: a train function is a plain function")
