"""What rounds have left in objects and variables, and how a trainer would fare that has it not: joiners are not given it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Any

import numpy as np
import torch

from surefoot_actors.engine.state.iterators import At
from surefoot_actors.engine.state.parts import DELETED, Slot
from surefoot_actors.engine.state.remembered import copied, follows_a_place, is_told
from surefoot_actors.engine.state.unset import may_be_unset
from surefoot_actors.user_code.frames import PROXIES

__all__ = ["REMOVABLE", "Left"]

Key = tuple[str, Slot]

# Parts that may be absent.
REMOVABLE = ("key", "attribute")
# So many bytes in all are copied for that.
_MOST_COPIED = 1 << 26
# In so many steps it is tried.
_STEPS_TRIED = 3
_NOT_COPIED = object()


class Left:
    """Everything as it was when the run's first round began, and what rounds have left, as it was when a step ended."""

    def __init__(
        self,
        found: Callable[[], Iterable[tuple[Key, Any]]],
        token: Callable[[Any, Slot], Any],
        thing: Callable[[str], Any],
        left_alone: Collection[Key],
    ) -> None:
        """`found` yields everything; `token` is equal for equal values; `left_alone`: what rounds change, which is kept up to date."""
        self._found, self._token, self._thing, self._left_alone = found, token, thing, left_alone
        self._at_begin: dict[Key, Any] = {}
        self._ended: dict[Key, Any] = {}
        # by the line of an inner loop
        self._tried: dict[str, set[Key]] = {}

    def begin(self, found: Iterable[tuple[Key, Any]]) -> None:
        """The run's first round begins."""
        self._at_begin = dict(_copies(found))

    def end_step(self, step: int) -> None:
        """A step ends: what the loop writes over from here on is its own."""
        if step >= _STEPS_TRIED:
            self._at_begin, self._ended = {}, {}
        if self._at_begin:
            self._ended = {k: self._token(v, k[1]) for k, v in self._found() if k in self._left_alone}

    def is_untried(self, line: str) -> bool:
        """Whether there is something of which it was not tried in this inner loop."""
        return bool(self._at_begin) and not self._ended.keys() <= self._tried.get(line, set())

    def as_for_joiners(self, line: str) -> list[tuple[Key, Any, Any]]:
        """Return (key, thing, value) of what rounds have left, with the value that it has on a trainer that joins."""
        found = []
        for key, value in self._found():
            thing, was = self._thing(key[0]), self._at_begin.get(key, DELETED)
            token = self._token(value, key[1]) if key in self._ended else None
            if token is None or isinstance(token, At) or token != self._ended[key] or key not in self._left_alone:
                continue
            if key[1][0] == "order":  # of a dict's keys, of which a joiner has those that the loop has added
                continue
            if self._is_known(key, thing, was) and not follows_a_place(thing):
                found.append((key, thing, was))
        self._tried.setdefault(line, set()).update(self._ended)
        return found

    def _is_known(self, key: Key, thing: Any, was: Any) -> bool:
        """Whether it can be made as it was; what was not there is taken away where it is the user's own."""
        if was is DELETED:
            return key[1][0] in REMOVABLE and may_be_unset(thing, key[1], None)
        return was is not _NOT_COPIED


def _copies(found: Iterable[tuple[Key, Any]]) -> Iterator[tuple[Key, Any]]:
    """Yield values that stay as they are: no iterators, as the loop over steps ends when nobody has its own any more."""
    room = _MOST_COPIED
    for key, value in found:
        if type(value) in PROXIES or hasattr(type(value), "__next__") or not is_told(value):
            yield key, _NOT_COPIED
            continue
        room -= value.nbytes if isinstance(value, torch.Tensor | np.ndarray) else sys.getsizeof(value)
        yield key, copied(value) if room >= 0 else _NOT_COPIED
