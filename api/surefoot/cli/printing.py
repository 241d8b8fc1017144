"""Where the command line prints: nothing else does. What others wrote reaches the terminal as text alone, whichever command shows it."""

from __future__ import annotations

import sys
from collections.abc import Iterable

import typer
from rich.console import Console
from rich.segment import Segment

from surefoot.printable import printable

__all__ = ["PlainConsole", "console", "say", "say_error"]


class PlainConsole(Console):
    """A console whose colours and layout are its own, and whose text has no control characters."""

    def _render_buffer(self, buffer: Iterable[Segment]) -> str:
        return super()._render_buffer(
            Segment(printable(s.text), s.style, s.control) if not s.control else s for s in buffer
        )


def console() -> PlainConsole:
    """Return a console on today's standard output. Tables get room where nobody's terminal limits them."""
    plain = not sys.stdout.isatty()
    return PlainConsole(highlight=False, markup=False, emoji=False, width=200 if plain else None)


def say(text: str, *, end: str = "\n") -> None:
    """Print a line, or several, to standard output."""
    typer.echo(printable(text) + end, nl=False)


def say_error(text: str) -> None:
    """Print a line, or several, to standard error."""
    typer.echo(printable(text), err=True)
