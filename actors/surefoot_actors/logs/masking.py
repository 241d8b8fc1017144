"""Values that no line may show: taken out before a line leaves the machine. Pure; standard library only."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

__all__ = ["MASK", "masked_by"]

MASK = "***"
# What is shorter is part of too many words: whoever hid it would find stars everywhere.
_SHORTEST = 4


def masked_by(values: Iterable[str]) -> Callable[[str], str]:
    """Return a function that replaces each of these values in a text, the longest first; of a value of several lines, each line."""
    parts = {part for value in values for part in (value, *value.splitlines()) if len(part.strip()) >= _SHORTEST}
    if not parts:
        return _unchanged
    pattern = re.compile("|".join(re.escape(part) for part in sorted(parts, key=len, reverse=True)))
    return lambda text: pattern.sub(MASK, text)


def _unchanged(text: str) -> str:
    return text
