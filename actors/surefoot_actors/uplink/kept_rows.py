"""Ledger rows that wait, as they were at one moment."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from surefoot.events import LedgerRow
from surefoot_actors.uplink.spool import Spool

__all__ = ["KeptRows", "row_lines"]


class KeptRows:
    """The unacknowledged rows as they were at one moment, read when they are asked for; what is acknowledged by then is left out."""

    def __init__(self, waiting: Spool, below: int) -> None:
        self._waiting, self._below = waiting, below

    def __iter__(self) -> Iterator[LedgerRow]:
        return (LedgerRow.model_validate_json(line) for line in self.lines())

    def lines(self) -> Iterator[bytes]:
        """Yield each row's JSON, by step."""
        return (line for _, line in self._waiting.lines(below=self._below))


def row_lines(rows: Iterable[LedgerRow]) -> Iterator[bytes]:
    """Yield each row's JSON, without reading those that are kept as such."""
    if isinstance(rows, KeptRows):
        return rows.lines()
    return (row.model_dump_json().encode() for row in rows)
