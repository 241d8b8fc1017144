"""Things of some sizes laid end to end, as one long row of bytes: where each begins, and which of them a window shows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import NamedTuple

__all__ = ["Piece", "offsets", "pieces"]


class Piece(NamedTuple):
    """Bytes [start, stop) of one of the things, by its number."""

    number: int
    start: int
    stop: int


def offsets(sizes: Sequence[int]) -> list[int]:
    """Return where each begins, and last where all of them end."""
    return list(accumulate(sizes, initial=0))


def pieces(sizes: Sequence[int], low: int, high: int) -> Iterator[Piece]:
    """Yield what lies in bytes [low, high) of the row, in order. Of the empty things, those strictly between the two."""
    at = 0
    for number, size in enumerate(sizes):
        if at < high and at + size > low:
            yield Piece(number, max(low - at, 0), min(high - at, size))
        at += size
