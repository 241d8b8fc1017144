"""The loop over steps inside enumerate() or zip(): those count on their own, and begin at 0 on a trainer that joins at step 100.

They take what they count by asking for the next step, and look at their own count only afterwards. So the first time that a joiner is
asked for a step it has them asked once more for each step that is past, and they come out where the others' are.
"""

from __future__ import annotations

import dis
import gc
import itertools
from types import FrameType
from typing import Any, Protocol

from surefoot.errors import ContractError
from surefoot_actors.user_code.frames import user_frames
from surefoot_actors.user_code.lines import own_line

__all__ = ["Skipping", "catch_up", "check_wrapped", "may_wrap"]

_WRAPPERS = (enumerate, zip, itertools.islice, itertools.zip_longest)
# What a `for` executes to get an iterator: those above get theirs by a call.
_GET_ITER = dis.opmap["GET_ITER"]


class Skipping(Protocol):
    """An iterator of which `next` does nothing while this is set."""

    skips: bool


def may_wrap(frame: FrameType) -> bool:
    """Whether a frame that asks for an iterator just now may put it into another one: all do but a `for`.

    So that what wraps a loop is only looked for where something may, as that search goes through all objects that there are.
    """
    return frame.f_code.co_code[frame.f_lasti] != _GET_ITER


def check_wrapped(loop: object) -> None:
    """Raise ContractError where something else is asked for its next value before the steps are: it would be one ahead."""
    _check_order(_around(loop))


def _check_order(around: list[tuple[Any, object]]) -> None:
    for outer, inner in around:
        first = outer.__reduce__()[1][0] if isinstance(outer, zip) else inner
        if first is not inner:
            line = own_line(next(user_frames(), None))
            raise ContractError(
                f"zip() at {line} takes run.steps() after another iterable, which is asked first and so is out of step on a trainer that "
                f"joins, and at the end; put run.steps() first: for step, value in zip(run.steps(n), values)"
            )


def catch_up(loop: Skipping, num_steps: int) -> None:
    """Have what wraps the loop count the steps before the first that this trainer is given."""
    if not num_steps or not (around := _around(loop)):
        return
    _check_order(around)
    outermost = around[-1][0]
    loop.skips = True
    try:
        for _ in range(num_steps):
            next(outermost)
    finally:
        loop.skips = False


def _around(loop: object) -> list[tuple[Any, object]]:
    """Return what wraps the loop and what it wraps, innermost first."""
    found: list[tuple[Any, object]] = []
    inner = loop
    while (outer := _holder(inner)) is not None:
        found.append((outer, inner))
        inner = outer
    return found


def _holder(thing: object) -> Any:
    holders = gc.get_referrers(thing)
    for holder in holders:
        if isinstance(holder, _WRAPPERS):
            return holder
    for holder in holders:
        if type(holder) is tuple:  # zip has its iterators in one
            for outer in gc.get_referrers(holder):
                if isinstance(outer, _WRAPPERS):
                    return outer
    return None
