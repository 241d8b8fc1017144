"""What a program gives, of the types that it may have: refused with an error of Surefoot's own, which says what is taken. Pure.

Nothing of a value is shown: it may be a secret.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from surefoot.errors import OptionError

__all__ = [
    "a_function",
    "a_mapping",
    "a_moment",
    "a_number",
    "a_path",
    "a_place",
    "a_text",
    "a_whole_number",
    "any_text",
    "texts",
]


def _wrong(name: str, value: object, wanted: str) -> OptionError:
    given = "None" if value is None else f"of type {type(value).__name__}"
    return OptionError(f"{name} is {given}: give {wanted}")


def any_text(value: object, name: str, example: str) -> str:
    """Return a text as it is, whatever is in it. Raises OptionError, as all of these do."""
    if not isinstance(value, str):
        raise _wrong(name, value, f"a text, as {example!r}")
    return value


def a_text(value: object, name: str, example: str) -> str:
    """Return a text that can be sent."""
    text = any_text(value, name, example)
    try:
        text.encode()
    except UnicodeEncodeError:
        raise OptionError(f"{name} has half a character in it, which is no text") from None
    return text


def a_place(value: object, name: str) -> str:
    """Return a path, or a URL, as text."""
    if not isinstance(value, str | os.PathLike) or not isinstance(path := os.fspath(value), str):
        raise _wrong(name, value, "a path: a text or a pathlib.Path")
    return path


def a_path(value: object, name: str) -> Path:
    """Return a path."""
    return Path(a_place(value, name))


def a_whole_number(value: object, name: str, low: int | None = None, high: int | None = None) -> int:
    """Return a whole number, of these bounds where they are given; true and false are none."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise _wrong(name, value, "a whole number")
    if (low is not None and value < low) or (high is not None and value > high):
        raise OptionError(f"{name} is to be {f'from {low} to {high}' if high is not None else f'at least {low}'}")
    return value


def a_number(value: object, name: str) -> float:
    """Return a number; what is no number at all (NaN) is none."""
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value:
        raise _wrong(name, value, "a number")
    try:
        return float(value)
    except OverflowError:
        raise OptionError(f"{name} is larger than any number that is counted with") from None


def a_function(value: object, name: str) -> None:
    """Look whether it can be called."""
    if not callable(value):
        raise _wrong(name, value, "a function, as `train` in `def train(run): ...`")


def a_moment(value: object, name: str) -> datetime:
    """Return a time, with its zone; one without a zone is this machine's."""
    if not isinstance(value, datetime):
        raise _wrong(name, value, "a datetime")
    try:
        return value.astimezone()
    except (OverflowError, ValueError, OSError):
        raise OptionError(f"{name} is a time that no clock here has") from None


def a_mapping(value: object, name: str, example: str) -> dict[Any, Any]:
    """Return a mapping as a dict; None is an empty one."""
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise _wrong(name, value, f"a dict, as {example}")
    return dict(value)


def texts(value: object, name: str, example: str) -> tuple[str, ...]:
    """Return several texts; one alone is one, and None is none."""
    if value is None:
        return ()
    given = (value,) if isinstance(value, str) else value
    if isinstance(given, bytes | Mapping) or not isinstance(given, Iterable):
        raise _wrong(name, value, f"a list of texts, as {example}")
    return tuple(a_text(each, f"what {name} lists", example) for each in given)
