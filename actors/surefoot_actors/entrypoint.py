"""Loads the user's train function in a trainer. Nothing else of Surefoot ever imports user code."""

from __future__ import annotations

import importlib
import os
import sys

from surefoot.contract import TrainFunction
from surefoot.errors import EntrypointError

__all__ = ["load"]


def load(entrypoint: str) -> TrainFunction:
    """Import "module:function" from the working directory or the installed packages.

    Raises EntrypointError where the function is missing; whatever the module's import raises goes through.
    """
    here = os.getcwd()
    if here not in sys.path:
        sys.path.insert(0, here)
    module_name, _, function_name = entrypoint.partition(":")
    module = importlib.import_module(module_name)
    function = getattr(module, function_name, None)
    if not callable(function):
        names = sorted(
            n
            for n, value in vars(module).items()
            if callable(value) and getattr(value, "__module__", "") == module_name
        )
        raise EntrypointError(
            f"module {module_name!r} has no function {function_name!r}; it defines: {', '.join(names) or 'no function at all'}"
        )
    return function  # type: ignore[no-any-return]
