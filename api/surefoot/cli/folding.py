"""Lines that are as wide as the terminal at most, broken between words alone. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable

from rich.cells import cell_len

__all__ = ["fold", "fold_items", "shortened", "words"]

_WORD = re.compile(r"[^ ]+")
_SPACES = re.compile(r"( +)")
# stands for a space at which no line is broken
_HELD = "\ue000"


def words(text: str) -> list[str]:
    """The words of a text: what is never cut."""
    return _WORD.findall(text.replace("\n", " "))


def fold(text: str, width: float, *, indent: str = "") -> list[str]:
    """Break a line between words, each following one after the indent. A word that is wider than a line is whole all the same."""
    if cell_len(text) <= width:
        return [text]
    lines, line, gap = list[str](), "", ""
    for part in _SPACES.split(text):
        if not part.strip(" "):
            gap += part
        elif line.strip(" ") and cell_len(line + gap + part) > width:
            lines.append(line)
            line, gap = indent + part, ""
        else:
            line, gap = line + gap + part, ""
    return [*lines, line]


def fold_items(items: Iterable[str], width: float, *, indent: str = "") -> list[str]:
    """Set items beside each other; none is broken that fits into a line of its own."""
    room = width - cell_len(indent)
    held = (item.replace(" ", _HELD) if cell_len(item) <= room else item for item in items)
    return [line.replace(_HELD, " ") for line in fold("  ".join(held), width, indent=indent)]


def shortened(text: str, most: int) -> str:
    """Return the text, or as many of its words as have so many characters, and "…": no word is cut, though it be longer."""
    if len(text) <= most:
        return text
    end = text.rfind(" ", 0, most - 1)
    if end <= 0:
        end = text.find(" ")
    return f"{text[:end].rstrip()} …" if end > 0 else text
