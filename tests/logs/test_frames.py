"""Frames wait until they are stored, and the oldest go where too many wait."""

from __future__ import annotations

import json
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from surefoot_actors.logs.frames import Frame, Frames

pytestmark = pytest.mark.unit


def texts(frame: Frame) -> list[str]:
    runs = [json.loads(line) for line in zlib.decompress(frame.content).split(b"\n")]
    lines = [line for run in runs for line in run["x"].split("\n")[:-1]]
    assert len(lines) == frame.lines
    return lines


@given(st.lists(st.tuples(st.integers(1, 5), st.booleans(), st.integers(0, 30))))
def test_each_line_is_in_one_frame_until_it_is_stored(story: list[tuple[int, bool, int]]) -> None:
    frames, told, stored = Frames(), 0, 0
    for count, closes, below in story:
        frames.add("".join(f"{told + i}\n" for i in range(count)), at_ms=told, step=0, stream="stdout")
        told += count
        if closes:
            frames.close()
        # answers may be late, doubled, or of before
        ends = [f.end for f in frames.waiting if f.end <= below]
        frames.stored(below)
        stored = max([stored, *(end - 1 for end in ends)])
        waiting = [line for frame in frames.waiting for line in texts(frame)]
        assert waiting == [str(n) for n in range(stored, stored + len(waiting))]
    frames.close()
    assert [line for f in frames.waiting for line in texts(f)] == [str(n) for n in range(stored, told)]
    frames.stored(told + 1)
    assert frames.empty


def test_the_oldest_go_where_too_many_wait_and_a_line_says_how_many() -> None:
    frames = Frames(kept_bytes=1000)
    for n in range(200):
        frames.add(f"{n} {hash(str(n))}\n", at_ms=n, step=n, stream="stdout")
        frames.close()
        assert sum(len(f.content) for f in frames.waiting) <= 1000
    lines = [line for f in frames.waiting for line in texts(f)]
    said = [line for line in lines if "were lost" in line]
    assert said
    assert lines[-1].startswith("199 ")
    numbers = [f.first for f in frames.waiting]
    assert numbers == sorted(numbers)
