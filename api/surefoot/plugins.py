"""How the base package reaches the parts it does not import: entry points, with a clear word when an extra is missing."""

from __future__ import annotations

from importlib.metadata import entry_points
from typing import Any

from surefoot.errors import MissingExtraError

__all__ = ["load"]

_EXTRA = {"run_local": "ray", "check": "ray", "up": "service"}


def load(name: str) -> Any:
    """Return the plugin `name` of the group "surefoot.plugins".

    Raises MissingExtraError naming the extra to install.
    """
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
