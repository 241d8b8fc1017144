"""Where lines of our own logs go: to the stream, or nowhere; never back as an error to whoever logged."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import TextIO

import pytest
import structlog

from surefoot.own_log import OwnLog


class Raising(io.StringIO):
    """A stream in a state that no list of states names."""

    def write(self, _text: str, /) -> int:
        raise RuntimeError("as told")


def closed() -> TextIO:
    stream = io.StringIO()
    stream.close()
    return stream


def full() -> TextIO:
    return open("/dev/full", "w")


def narrow() -> TextIO:
    return io.TextIOWrapper(io.BytesIO(), encoding="ascii")


def nowhere() -> None:
    return None


def unknown() -> TextIO:
    raise KeyError("as told")


STATES: list[Callable[[], TextIO | None]] = [closed, full, narrow, nowhere, unknown, Raising]


@pytest.fixture
def open_streams() -> Iterator[ExitStack]:
    with ExitStack() as streams:
        yield streams


@pytest.mark.parametrize("state", STATES, ids=lambda s: s.__name__)
@pytest.mark.parametrize("level", ["debug", "info", "warning", "error", "critical", "exception"])
def test_a_line_that_cannot_be_written_is_lost(
    state: Callable[[], TextIO | None], level: str, open_streams: ExitStack
) -> None:
    made: list[TextIO | None] = []

    def stream() -> TextIO | None:
        if not made:
            made.append(state())
        return made[0]

    log = structlog.wrap_logger(OwnLog(stream), wrapper_class=structlog.make_filtering_bound_logger(0))
    getattr(log, level)("an écu", of="theirs")
    if made and state is full:
        open_streams.callback(_close, made[0])


def _close(stream: TextIO | None) -> None:
    # what it holds of a line cannot be written now either
    with pytest.raises(OSError, match="No space"):
        stream.close()  # type: ignore[union-attr]


def test_lines_are_written_whole_to_where_the_log_goes_now() -> None:
    first, second = io.StringIO(), io.StringIO()
    streams = [first]
    log = OwnLog(lambda: streams[-1])
    log.info("one")
    streams.append(second)
    log.warning("two\nlines")
    assert (first.getvalue(), second.getvalue()) == ("one\n", "two\nlines\n")
