"""Tables and lists that fit the terminal: what is too wide for one is told row by row, and no word, id or path is ever cut."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from rich.cells import cell_len
from rich.table import Table
from rich.text import Text

from surefoot.cli.folding import fold, fold_items, words
from surefoot.cli.printing import console, say
from surefoot.printable import printable

__all__ = ["print_pairs", "print_table", "row_lines"]

Cell = str | Text
# between two columns
_GAP = 2
# a column that is narrower is no pleasure to read
_LEAST = 24
_INDENT = "  "


def print_table(heads: Sequence[str], rows: Sequence[Sequence[Cell]], *, right: Collection[str] = ()) -> None:
    """Print a table; `right`: the heads of columns that stand to the right. Where it does not fit, each row is told by itself."""
    out = console()
    columns = [(head, *(row[n] for row in rows)) for n, head in enumerate(heads)]
    widths = [max(map(_width, column)) for column in columns]
    widest = widths.index(max(widths))
    spare = out.width - (sum(widths) + _GAP * (len(widths) - 1))
    longest_word = max(cell_len(word) for cell in columns[widest] for word in words(_plain(cell)) or [""])
    if spare < 0 and widths[widest] + spare < max(_LEAST, longest_word):
        for row in rows:
            say("\n".join(row_lines(heads, [_plain(cell) for cell in row], out.width)))
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for n, head in enumerate(heads):
        table.add_column(head, justify="right" if head in right else "left", no_wrap=n != widest, overflow="fold")
    for row in rows:
        table.add_row(*row)
    out.print(table)


def row_lines(heads: Sequence[str], cells: Sequence[str], width: float) -> list[str]:
    """Tell a row by itself, each value behind its head; empty ones are left out."""
    items = [f"{head} {' '.join(words(cell))}".strip() for head, cell in zip(heads, cells, strict=True) if cell]
    return fold_items(items, width, indent=_INDENT)


def print_pairs(pairs: Mapping[str, Cell]) -> None:
    """Print names with their values; empty ones are left out."""
    shown = {name: value for name, value in pairs.items() if _plain(value)}
    beside = max(map(cell_len, shown), default=0) + _GAP
    for name, value in shown.items():
        _print_pair(name, value, beside)


def _print_pair(name: str, value: Cell, beside: int) -> None:
    """A name, and its value beside it; below it where one of its words has no room there."""
    out = console()
    style = value.style if isinstance(value, Text) else ""
    heading = Text(name.ljust(beside), style="bold")
    if max((cell_len(word) for word in words(_plain(value))), default=0) > out.width - beside:
        out.print(Text(name, style="bold"), soft_wrap=True)
        heading = Text(_INDENT)
    room = max(1, out.width - len(heading.plain))
    for line in (part for whole in _plain(value).split("\n") for part in fold(whole, room)):
        out.print(Text.assemble(heading, (line, style)), soft_wrap=True)
        heading = Text(" " * len(heading.plain))


def _plain(cell: Cell) -> str:
    return printable(str(cell))


def _width(cell: Cell) -> int:
    return max(map(cell_len, _plain(cell).split("\n")))
