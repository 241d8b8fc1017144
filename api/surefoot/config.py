"""The job's config as training code is given it: a mapping whose values are attributes too, as argparse's scripts expect."""

from __future__ import annotations

from difflib import get_close_matches
from typing import Any

__all__ = ["Config", "near"]


class Config(dict[str, Any]):
    """`config["lr"]`, `config.get("lr", 0.1)` and `config.lr` are the same. Names of dict's own methods are read as `config["items"]`."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        try:
            value = self[name]
        except KeyError:
            raise AttributeError(f"the config has no {name!r}{near(name, self)}") from None
        if type(value) is dict:
            value = self[name] = Config(value)
        return value

    def __setattr__(self, name: str, value: Any) -> None:
        self[name] = value

    def __delattr__(self, name: str) -> None:
        try:
            del self[name]
        except KeyError:
            raise AttributeError(f"the config has no {name!r}{near(name, self)}") from None

    def __missing__(self, name: str) -> Any:
        raise KeyError(f"the config has no {name!r}{near(name, self)}")


def near(name: str, known: Any) -> str:
    """A hint for a name that is not known: the one that was probably meant, or those that there are."""
    names = sorted(str(each) for each in known)
    if close := get_close_matches(name, names, 1, 0.6):
        return f"; did you mean {close[0]!r}?"
    return f"; there {'is' if len(names) == 1 else 'are'} {', '.join(names[:20])}" if names else "; it is empty"
