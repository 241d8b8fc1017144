"""Bytes that a process prints, folded into lines. Pure; standard library only.

A carriage return begins a line anew, so of a progress bar the last state alone is a line. The work is done on many lines at once: a
program may print ten thousand a second, on the cores that it trains on.
"""

from __future__ import annotations

import re
from collections.abc import Callable

__all__ = ["LONGEST_LINE", "Folder", "step_mark"]

# characters of a line; what is longer is cut, and says so
LONGEST_LINE = 8192
# bytes that may wait for the end of their line
_LONGEST_REST = 64 * 1024
# Which step the text after it is of. Printed by the process itself (see `capture`), so that it is exact however late it is read.
_MARK = re.compile(rb"\0\x1e(\d{1,19})\x1e")
# colours and cursors of a terminal
_ESCAPES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[@-Z\\-_])")
_LONG = re.compile(rf"^(.{{{LONGEST_LINE}}}).+$", re.MULTILINE)


def step_mark(step: int) -> bytes:
    """What a process prints before the first text of a step."""
    return b"\0\x1e%d\x1e" % step


class Folder:
    """One stream of one process. Texts that it returns are whole lines, each with its line break."""

    def __init__(self, mask: Callable[[str], str] = str) -> None:
        """`mask` takes secrets out of lines, before what is too long is cut: half a secret is not found."""
        self._mask = mask
        self._rest = b""
        self._step = -1
        # the line under way was too long: what comes of it is dropped
        self._skips = False

    @property
    def waiting(self) -> bool:
        """Whether a line has begun that has not ended."""
        return bool(self._rest)

    def feed(self, data: bytes, floor: int = -1) -> list[tuple[int, str]]:
        """Take bytes; return the lines that they complete, as (step, text). The step is at least `floor`."""
        if self._skips:
            _, newline, data = data.partition(b"\n")
            if not newline:
                return []
            self._skips = False
        whole, newline, rest = (self._rest + data).rpartition(b"\n")
        self._rest = rest
        found = self._pieces(whole + newline, floor) if newline else []
        return found + (self._too_long(floor) if len(self._rest) > _LONGEST_REST else [])

    def flush(self, floor: int = -1) -> list[tuple[int, str]]:
        """Return what waits for the end of its line as if that had come."""
        rest, self._rest = self._rest, b""
        return self._pieces(rest + b"\n", floor) if rest else []

    def _too_long(self, floor: int) -> list[tuple[int, str]]:
        last = self._rest.rfind(b"\r", 0, len(self._rest) - 1)
        if last >= 0:
            # states of a progress bar: the last one counts; which step it is of stays known
            for mark in _MARK.finditer(self._rest, 0, last):
                self._step = int(mark[1])
            self._rest = self._rest[last:]
        if len(self._rest) <= _LONGEST_REST:
            return []
        self._skips = True
        return self.flush(floor)

    def _pieces(self, whole: bytes, floor: int) -> list[tuple[int, str]]:
        if b"\0\x1e" not in whole:
            return self._piece(whole, floor)
        found: list[tuple[int, str]] = []
        parts = _MARK.split(whole)
        carried = b""
        for text, step in zip(parts[::2], [*parts[1::2], b""], strict=True):
            lines, newline, tail = (carried + text).rpartition(b"\n")
            found += self._piece(lines + newline, floor)
            carried = tail
            if step:
                self._step = int(step)
        return found

    def _piece(self, whole: bytes, floor: int) -> list[tuple[int, str]]:
        if not whole:
            return []
        if b"\r" in whole:
            whole = b"\n".join(map(_last_state, whole.split(b"\n")))
        text = whole.decode(errors="replace")
        if "\x1b" in text:
            text = _ESCAPES.sub("", text)
        text = self._mask(text)
        if len(text) > LONGEST_LINE:
            text = _LONG.sub(rf"\1 ... (cut: a line has at most {LONGEST_LINE} characters)", text)
        return [(max(self._step, floor), text)]


def _last_state(line: bytes) -> bytes:
    """What a terminal shows in the end of a line with carriage returns."""
    if b"\r" not in line:
        return line
    states = line.split(b"\r")
    return next((state for state in reversed(states) if state.strip()), b"")
