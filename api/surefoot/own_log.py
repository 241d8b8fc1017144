"""Where the lines of our own logs go. One that cannot be written is lost: no work of ours ends because nobody could be told about it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import TextIO

__all__ = ["OwnLog"]


class OwnLog:
    """What structlog calls a logger: it is handed whole lines. Called from any thread."""

    def __init__(self, stream: Callable[[], TextIO | None]) -> None:
        """`stream` says where a line goes, each time; None: nowhere."""
        self._stream = stream

    def msg(self, line: str) -> None:
        """Write one line, at once and in one piece, if that can be done."""
        # a full disk, a pipe whose reader has gone, a stream that training code has closed or put another thing in the place of
        with contextlib.suppress(Exception):
            stream = self._stream()
            if stream is not None:
                stream.write(f"{line}\n")
                stream.flush()

    debug = info = warning = error = critical = msg
