"""Lines that are as wide as the terminal at most, broken between words alone. Pure."""

from __future__ import annotations

import re

from rich.cells import cell_len

__all__ = ["fold", "words"]

# what goes to the next line whole: no space is in it, or only ones that were meant to hold together
_WORD = re.compile(r"[^ ]+")
_SPACES = re.compile(r"( +)")


def words(text: str) -> list[str]:
    """The words of a text: what is never cut."""
    return _WORD.findall(text.replace("\n", " "))


def fold(text: str, width: int, *, indent: str = "") -> list[str]:
    """Break a line between words, each following one after the indent. A word that is wider than a line has one, and is whole."""
    if cell_len(text) <= width:
        return [text]
    lines, line = list[str](), ""
    gap = ""
    for part in _SPACES.split(text):
        if not part.strip(" "):
            gap += part
        elif line.strip(" ") and cell_len(line + gap + part) > width:
            lines.append(line)
            line, gap = indent + part, ""
        else:
            line, gap = line + gap + part, ""
    return [*lines, line]
