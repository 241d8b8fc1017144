"""Things laid end to end: a window shows every byte of them once."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from surefoot_actors.engine.vector.end_to_end import offsets, pieces

SIZES = st.lists(st.integers(0, 9), max_size=8)


@given(sizes=SIZES, low=st.integers(0, 80), length=st.integers(0, 80))
def test_a_window_shows_its_bytes_and_no_others(sizes: list[int], low: int, length: int) -> None:
    row = [(number, at) for number, size in enumerate(sizes) for at in range(size)]
    shown = [(p.number, at) for p in pieces(sizes, low, low + length) for at in range(p.start, p.stop)]
    assert shown == row[low : low + length]


@given(sizes=SIZES)
def test_each_begins_where_those_before_it_end(sizes: list[int]) -> None:
    assert offsets(sizes) == [sum(sizes[:i]) for i in range(len(sizes) + 1)]
