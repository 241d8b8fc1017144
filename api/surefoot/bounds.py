"""Bounds of JSON that others tell: checked where it enters, made to fit before it is sent, read whatever is stored. Pure."""

from __future__ import annotations

import json
import math
from typing import Any

from pydantic import JsonValue

__all__ = ["MAX_TEXT", "MAX_WHOLE", "check", "fit", "read_object"]

# characters of one text: a traceback is the longest
MAX_TEXT = 100_000
MAX_KEY = 500
# objects and lists within each other
MAX_DEPTH = 12
# values, and characters of all texts, of one event
MAX_VALUES = 50_000
MAX_TEXT_IN_ALL = 1_000_000
# as far as every reader's numbers are whole
MAX_WHOLE = 2**53


class _Budget:
    """What one event may still hold."""

    def __init__(self) -> None:
        self.values, self.text = MAX_VALUES, MAX_TEXT_IN_ALL

    def spend(self, text: str = "") -> bool:
        """Return whether one more value, with this text, is within bounds."""
        self.values -= 1
        self.text -= len(text)
        return self.values >= 0 and self.text >= 0


def writable(text: str) -> str:
    """The text as every database and terminal takes it: without zeros and halves of surrogate pairs."""
    return text.encode("utf-8", "replace").decode().replace("\0", "")


def check(value: Any) -> Any:
    """Return JSON with its texts made writable. Raises ValueError, with what is wrong, where it is out of bounds."""
    return _check(value, MAX_DEPTH, _Budget())


def _check(value: Any, depth: int, budget: _Budget) -> Any:
    if not budget.spend(value if isinstance(value, str) else ""):
        raise ValueError(f"an event holds at most {MAX_VALUES} values and {MAX_TEXT_IN_ALL} characters")
    match value:
        case str():
            return _check_text(value, MAX_TEXT)
        case bool() | None:
            return value
        case int():
            if abs(value) > MAX_WHOLE:
                raise ValueError(f"whole numbers are at most {MAX_WHOLE}")
            return value
        case float():
            if not math.isfinite(value):
                raise ValueError("numbers must be finite")
            return value
        case dict() | list() if depth == 0:
            raise ValueError(f"objects and lists may be {MAX_DEPTH} deep")
        case dict():
            return {_check_key(k, budget): _check(v, depth - 1, budget) for k, v in value.items()}
        case list() | tuple():
            return [_check(v, depth - 1, budget) for v in value]
    raise ValueError(f"{type(value).__name__} is no JSON")


def _check_key(key: Any, budget: _Budget) -> str:
    if not isinstance(key, str) or not budget.spend(key):
        raise ValueError(f"names are texts, and an event holds at most {MAX_TEXT_IN_ALL} characters")
    return _check_text(key, MAX_KEY)


def _check_text(text: str, most: int) -> str:
    if len(text) > most:
        raise ValueError(f"a text may have {most} characters, and this one has {len(text)}")
    return writable(text)


def fit(value: Any) -> JsonValue:
    """Return whatever it is as JSON that `check` takes: texts are cut to their ends, what is too deep or too much is left out."""
    return _fit(value, MAX_DEPTH, _Budget())


def _fit(value: Any, depth: int, budget: _Budget) -> JsonValue:
    if not budget.spend():
        return None
    match value:
        case str():
            text = writable(str(value))[-MAX_TEXT:]
            return text if budget.spend(text) else ""
        case bool() | None:
            return value
        case int() if abs(value) <= MAX_WHOLE:
            return value
        case float() if math.isfinite(value):
            return value
        case dict() if depth > 0:
            return {k: _fit(v, depth - 1, budget) for k, v in _keys(value).items() if budget.spend(k)}
        case list() | tuple() if depth > 0:
            return [_fit(v, depth - 1, budget) for v in value[: max(0, budget.values)]]
    return writable(repr(value)[:MAX_KEY]) if not isinstance(value, dict | list | tuple) else "..."


def _keys(value: dict[Any, Any]) -> dict[str, Any]:
    return {writable(str(key))[:MAX_KEY]: each for key, each in value.items()}


def read_object(text: str) -> dict[str, JsonValue]:
    """Read a stored JSON object, never failing: what cannot be read is an object that says so under "unreadable"."""
    try:
        # what is no number in JSON becomes text
        found = json.loads(text, parse_constant=str, parse_float=_finite)
        if not isinstance(found, dict):
            return {"unreadable": f"it is no object, but {type(found).__name__}"}
        if text.count("{") + text.count("[") > MAX_DEPTH or "\\ud" in text.lower():
            fitted = fit(found)
            assert isinstance(fitted, dict)
            return fitted
        return found
    except (ValueError, RecursionError) as error:
        return {"unreadable": f"it is no JSON: {writable(str(error))[:200]}"}


def _finite(text: str) -> float | str:
    number = float(text)
    return number if math.isfinite(number) else text
