"""`run.once` and `run.node_once`, on the side of the code that calls them: which call it is, and its random streams."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable

import xxhash

from surefoot.errors import ContractError
from surefoot_actors.determinism.rng import Purpose, Streams
from surefoot_actors.user_code.lines import is_ours, user_line

__all__ = ["OnceCalls"]


class OnceCalls:
    """The calls of one train function. A call is known by its name, or by the lines it came through and how often it came through them."""

    def __init__(self, streams: Streams) -> None:
        self._streams = streams
        self._names: set[str] = set()
        self._counts: Counter[str] = Counter()

    def make(
        self,
        what: str,
        prepare: Callable[[], object],
        name: str | None,
        do: Callable[[str, Callable[[], object]], None],
    ) -> None:
        """Have the coordinator `do` it. Random states are as before when it returns, whoever ran it."""
        if not callable(prepare):
            raise ContractError(
                f"run.{what}() at {user_line(3)} was given {prepare!r}, which was called already: give it the function, such as "
                f"run.{what}(lambda: prepare(path))"
            )
        key = f"{what} {self._key(what, name)}"
        do(key, lambda: self._aside(key, prepare))

    def _key(self, what: str, name: str | None) -> str:
        if name is None:
            lines = _lines(4)
            self._counts[lines] += 1
            return f"{lines} #{self._counts[lines]}"
        if name in self._names:
            raise ContractError(
                f"run.{what}(name={name!r}) at {user_line(4)}: another call has this name, and a name is one call's: what is done under "
                f"it is done once"
            )
        self._names.add(name)
        return name

    def _aside(self, key: str, prepare: Callable[[], object]) -> None:
        with self._streams.aside(Purpose.SETUP, xxhash.xxh3_64_intdigest(key.encode()) >> 1):
            prepare()


def _lines(skip: int) -> str:
    """Return the lines of the user's code that a call came through, innermost first."""
    frame, lines = sys._getframe(skip), []
    while frame is not None:
        code = frame.f_code
        if not is_ours(code.co_filename) and not code.co_filename.startswith("<"):
            lines.append(f"{code.co_filename.rpartition('/')[2]}:{frame.f_lineno}")
        frame = frame.f_back  # type: ignore[assignment]
    return " from ".join(lines)
