"""How the base package reaches the parts it does not import: entry points, with a clear word when an extra is missing."""

from __future__ import annotations

import sys
from importlib.metadata import entry_points
from typing import Any

from surefoot.errors import MissingExtraError

__all__ = ["load", "refused_python"]

_EXTRA = {"run_local": "ray", "check": "ray", "up": "service"}

# What runs on Ray, and the control plane, run on these and what is between them; the base package on more, see pyproject.toml.
_OLDEST, _NEWEST = (3, 11), (3, 13)


def refused_python(version: tuple[int, int]) -> str | None:
    """Say why the extras do not run on this Python, (major, minor); None: they do."""
    if _OLDEST <= version <= _NEWEST:
        return None
    oldest, newest, here = ("{}.{}".format(*each) for each in (_OLDEST, _NEWEST, version))
    return f"needs Python {oldest} to {newest}, and this is {here}: only the SDK and the command line run here"


def load(name: str) -> Any:
    """Return the plugin `name` of the group "surefoot.plugins".

    Raises MissingExtraError naming the extra to install, or the Pythons that it runs on.
    """
    if reason := refused_python(sys.version_info[:2]):
        raise MissingExtraError(f"surefoot's {name!r} {reason}")
    found = list(entry_points(group="surefoot.plugins", name=name))
    extra = _EXTRA[name]
    hint = f"install it with: pip install 'surefoot[{extra}]'"
    if not found:
        raise MissingExtraError(f"surefoot's {name!r} is not installed here; {hint}")
    try:
        return found[0].load()
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            f"surefoot's {name!r} needs {error.name!r}, which is not installed here; {hint}"
        ) from error
