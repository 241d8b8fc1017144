"""Bytes become lines, the same however they are cut on their way."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from surefoot_actors.logs.folding import LONGEST_LINE, Folder, step_mark
from surefoot_actors.masking import Masking

pytestmark = pytest.mark.unit

# what programs print: words, progress bars, colours, marks of steps, bytes that are no text
_PIECES = st.sampled_from(
    [
        b"epoch 1",
        b"\r",
        b"\n",
        b" 5%|#",
        b"\x1b[31m",
        b"\x1b[0m",
        b"\xff",
        "ä".encode(),
        b" ",
        b"\r\n",
        *map(step_mark, (3, 4, 12)),
    ]
)


def _lines(folder: Folder, chunks: list[bytes]) -> list[tuple[int, str]]:
    found = [piece for chunk in chunks for piece in folder.feed(chunk)] + folder.flush()
    return [(step, line) for step, text in found for line in text.split("\n")[:-1]]


@given(st.lists(_PIECES), st.lists(st.integers(0, 60)))
@example([b"epoch 1", b"\r\n", b" ", b"\n"], [9])
def test_it_does_not_matter_how_bytes_are_cut(pieces: list[bytes], cuts: list[int]) -> None:
    data = b"".join(pieces)
    ends = sorted({min(cut, len(data)) for cut in cuts} | {0, len(data)})
    chunks = [data[a:b] for a, b in pairwise(ends)]
    lines = _lines(Folder(), chunks)
    assert lines == _lines(Folder(), [data])
    assert not any(c in line for _, line in lines for c in "\r\n\0\x1e")


@given(st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\r\n\0\x1b\x1e")).filter(str.strip)))
def test_plain_lines_come_out_as_they_went_in(lines: list[str]) -> None:
    data = "".join(f"{line}\n" for line in lines).encode()
    assert [line for _, line in _lines(Folder(), [data])] == lines


def test_of_a_progress_bar_the_last_state_is_a_line() -> None:
    bar = b"".join(b"\r%3d%%|####|" % n for n in range(101)) + b"\n"
    assert _lines(Folder(), [b"begin\n", bar, b"end\n"]) == [(-1, "begin"), (-1, "100%|####|"), (-1, "end")]


def test_lines_are_of_the_step_whose_mark_came_last() -> None:
    data = b"before\n" + step_mark(0) + b"a\nb" + step_mark(1) + b"c\n" + b"d\n"
    assert _lines(Folder(), [data]) == [(-1, "before"), (0, "a"), (1, "bc"), (1, "d")]
    folder = Folder()
    assert folder.feed(b"C code prints no mark\n", 7) == [(7, "C code prints no mark\n")]


def test_a_line_without_an_end_takes_bounded_memory() -> None:
    folder = Folder()
    found = [piece for _ in range(100) for piece in folder.feed(b"x" * 10_000)]
    assert len(found) == 1
    assert found[0][1].startswith("x" * LONGEST_LINE)
    assert len(found[0][1]) < LONGEST_LINE + 100
    assert folder.feed(b"\nnext\n") == [(-1, "next\n")]
    # a bar that never ends is no such line: its last state stays
    states = [piece for n in range(100_000) for piece in folder.feed(b"\r%d%%" % n)]
    assert states == []
    assert folder.flush() == [(-1, "99999%\n")]


def test_of_a_secret_across_the_cut_nothing_is_left() -> None:
    secret = "a-secret-value"
    for before in range(LONGEST_LINE - 2 * len(secret), LONGEST_LINE + 1):
        line = "x" * before + secret + "y" * 100
        assert "a-s" not in _lines(Folder(Masking([secret]).text), [f"{line}\n".encode()])[0][1]
