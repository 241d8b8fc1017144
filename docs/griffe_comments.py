"""Fields are described in the reference by their comments, as they are in the source: those above, or on the same line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import griffe

__all__ = ["Comments"]


class Comments(griffe.Extension):
    """Takes comments for the docstrings of attributes that have none (called by mkdocstrings)."""

    def on_attribute_instance(self, *, node: Any, attr: griffe.Attribute, **_: Any) -> None:
        if attr.docstring is not None or attr.lineno is None or not isinstance(attr.filepath, Path):
            return
        lines = attr.lines_collection[attr.filepath]
        text = _above(lines, attr.lineno - 1) or _beside(lines, attr.endlineno or attr.lineno)
        if text:
            attr.docstring = griffe.Docstring(text[0].upper() + text[1:], lineno=attr.lineno, parent=attr)


def _above(lines: list[str], index: int) -> str:
    found: list[str] = []
    while index > 0 and (line := lines[index - 1].strip()).startswith("#"):
        found.insert(0, line.lstrip("#: "))
        index -= 1
    return " ".join(found)


def _beside(lines: list[str], lineno: int) -> str:
    _, mark, text = lines[lineno - 1].partition("  # ")
    return text.strip() if mark and not text.startswith(("type:", "noqa", "novm")) else ""
