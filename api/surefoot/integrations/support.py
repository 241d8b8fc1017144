"""What of a library's options is done, what makes no difference, and what is refused: nothing is skipped unseen."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from importlib import import_module
from typing import Any, NamedTuple

from surefoot.errors import ContractError, MissingExtraError

__all__ = ["Support", "caller", "library", "refuse"]

_HERE = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep


class Support(NamedTuple):
    """Of a library's options: every one that is in neither of the first two is refused where it is set."""

    #: options that are done
    honoured: frozenset[str]
    #: options that change nothing that is computed, each with the reason
    harmless: Mapping[str, str]
    #: what to do instead, of those that are refused
    advice: Mapping[str, str]

    def refused(self, given: Mapping[str, Any], default: Mapping[str, Any]) -> list[str]:
        """Return the options that are set to something else than their default and are not supported."""
        known = self.honoured | self.harmless.keys()
        return [name for name in given if name not in known and not _is_default(given[name], default.get(name))]


def _is_default(given: Any, default: Any) -> bool:
    """Whether an option is as it is left: by the default itself, or, where that is None, by what says no: False, []."""
    if given is default or (type(given) is type(default) and bool(given == default)):
        return True
    return default is None and (given is False or (isinstance(given, list) and not given))


def refuse(what: str, names: list[str], support: Support) -> None:
    """Raise ContractError when there are names to refuse."""
    if names:
        told = "; ".join(
            f"{name} ({support.advice.get(name, 'there is no such thing here: leave it out')})" for name in names
        )
        raise ContractError(f"{caller()}: {what} asks for what Surefoot does not do: {told}")


def caller() -> str:
    """Return "file.py:12" of the innermost frame outside of this package."""
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_HERE):
        frame = frame.f_back
    return f"{os.path.basename(frame.f_code.co_filename)}:{frame.f_lineno}"


def library(name: str, extra: str) -> Any:
    """Import a library's module. Raises MissingExtraError naming the extra that brings it."""
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            f"surefoot.integrations.{extra} needs {error.name!r}, which is not installed here; "
            f"install it with: pip install 'surefoot[{extra}]'"
        ) from error
