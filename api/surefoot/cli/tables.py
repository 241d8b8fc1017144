"""Tables and lists that fit the terminal: what is too wide for one is told line by line, and no word, id or path is ever cut."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from rich.cells import cell_len
from rich.table import Table
from rich.text import Text

from surefoot.cli.folding import fold, words
from surefoot.cli.printing import console, say

__all__ = ["print_pairs", "print_table"]

Cell = str | Text
# between two columns
_GAP = 2
# a column that is narrower is no pleasure to read
_LEAST = 24


def print_table(heads: Sequence[str], rows: Sequence[Sequence[Cell]], *, right: Collection[str] = ()) -> None:
    """Print a table; `right`: the heads of columns that stand to the right. Where it does not fit, each row is told by itself."""
    out = console()
    columns = list(zip(heads, *rows, strict=True))
    widths = [max(map(_width, column)) for column in columns]
    widest = widths.index(max(widths))
    spare = out.width - (sum(widths) + _GAP * (len(widths) - 1))
    longest_word = max(cell_len(word) for cell in columns[widest] for word in words(str(cell)) or [""])
    if spare < 0 and widths[widest] + spare < max(_LEAST, longest_word):
        _print_rows(heads, rows, out.width)
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for n, head in enumerate(heads):
        table.add_column(head, justify="right" if head in right else "left", no_wrap=n != widest, overflow="fold")
    for row in rows:
        table.add_row(*row)
    out.print(table)


def _print_rows(heads: Sequence[str], rows: Sequence[Sequence[Cell]], width: int) -> None:
    for row in rows:
        told = {head: str(cell) for head, cell in zip(heads, row, strict=True) if str(cell)}
        for n, (head, text) in enumerate(told.items()):
            for line in fold(f"{'  ' if n else ''}{head} {text}", width, indent="    " if n else "  "):
                say(line)


def print_pairs(pairs: Mapping[str, Cell]) -> None:
    """Print names with their values; empty ones are left out."""
    out = console()
    shown = {name: value for name, value in pairs.items() if str(value)}
    beside = max(map(cell_len, shown), default=0) + _GAP
    for name, value in shown.items():
        style = value.style if isinstance(value, Text) else ""
        lines = [part for line in str(value).split("\n") for part in fold(line, max(1, out.width - beside)) or [""]]
        heading = Text(name.ljust(beside), style="bold")
        if any(cell_len(line) > out.width - beside for line in lines) and beside > len(_INDENT):
            out.print(Text(name, style="bold"), soft_wrap=True)
            heading = Text(_INDENT)
            lines = [part for line in str(value).split("\n") for part in fold(line, max(1, out.width - len(_INDENT)))]
        for line in lines:
            out.print(Text.assemble(heading, (line, style)), soft_wrap=True)
            heading = Text(" " * cell_len(heading.plain))


_INDENT = "  "


def _width(cell: Cell) -> int:
    return max(map(cell_len, str(cell).split("\n")))
