"""Where the command line prints: nothing else does. What others wrote reaches the terminal as text alone, whichever command shows it."""

from __future__ import annotations

import math
import os
import shutil
import sys
from collections.abc import Iterable
from typing import TextIO

import typer
from rich.console import Console
from rich.segment import Segment

from surefoot.cli.folding import fold
from surefoot.printable import printable

__all__ = ["PlainConsole", "console", "say", "say_error", "say_words", "text_width"]

# of tables that go to no terminal
_WIDE = 200


class PlainConsole(Console):
    """A console whose colours and layout are its own, and whose text has no control characters."""

    def _render_buffer(self, buffer: Iterable[Segment]) -> str:
        return super()._render_buffer(
            Segment(printable(s.text), s.style, s.control) if not s.control else s for s in buffer
        )


def console() -> PlainConsole:
    """Return a console on today's standard output. Tables get room where nobody's terminal limits them."""
    return PlainConsole(highlight=False, markup=False, emoji=False, width=_width(sys.stdout) or _WIDE)


def text_width() -> float:
    """How wide a line of standard output may be."""
    return _width(sys.stdout) or math.inf


def _width(stream: TextIO) -> int | None:
    """How wide lines may be: as the terminal is, or as COLUMNS says. None: nothing bounds them."""
    return shutil.get_terminal_size().columns if stream.isatty() or os.environ.get("COLUMNS", "").isdigit() else None


def say(text: str, *, end: str = "\n") -> None:
    """Print a line, or several, to standard output, as they are: what programs read, or what somebody else wrote."""
    typer.echo(printable(text) + end, nl=False)


def say_words(text: str, *, indent: str = "") -> None:
    """Print sentences to standard output, broken between words where the terminal is narrower; `indent`: of what follows a break."""
    say(_folded(text, sys.stdout, indent))


def say_error(text: str, *, verbatim: bool = False) -> None:
    """Print sentences to standard error, broken between words where the terminal is narrower. `verbatim`: as they are."""
    typer.echo(printable(text) if verbatim else _folded(text, sys.stderr), err=True)


def _folded(text: str, stream: TextIO, indent: str = "") -> str:
    text, width = printable(text), _width(stream)
    if not width:
        return text
    return "\n".join(part for line in text.split("\n") for part in fold(line, width, indent=_indent(line) + indent))


def _indent(line: str) -> str:
    return line[: len(line) - len(line.lstrip(" "))]
