"""The loop over steps inside enumerate() or zip(): those count on their own, and begin at 0 on a trainer that joins at step 100.

They take what they count by asking for the next step, and look at their own count only afterwards. So the first time that a joiner is
asked for a step, each is put where the others' are: enumerate by its number, as nothing else leads to it, and what goes along with the
steps in zip() by asking for as many values. A progress bar, or another generator, may lie in between.
"""

from __future__ import annotations

import ctypes
import dis
import gc
import inspect
import itertools
import sys
from collections.abc import Iterator
from types import FrameType, GeneratorType
from typing import Any

from surefoot.errors import ContractError
from surefoot_actors.user_code.frames import user_frames
from surefoot_actors.user_code.lines import own_line

__all__ = ["catch_up", "check_wrapped", "is_passed_on", "may_wrap"]

# What asks several iterators in turn, and where in its pickled form these are.
_TOGETHER: dict[Any, int] = {zip: 0, itertools.zip_longest: 0, map: 1}
_WRAPPERS = (enumerate, itertools.islice, *_TOGETHER)
# What a `for` executes to get an iterator: those above get theirs by a call.
_GET_ITER = dis.opmap["GET_ITER"]
_INDEX = object.__basicsize__  # of an enumerate's number, in its memory


def may_wrap(frame: FrameType) -> bool:
    """Whether a frame that asks for an iterator just now may put it into another one: all do but a `for`.

    So that what wraps a loop is only looked for where something may, as that search goes through all objects that there are.
    """
    return frame.f_code.co_code[frame.f_lasti] != _GET_ITER


def is_passed_on(frame: FrameType) -> bool:
    """Whether a frame that asks for a step is a generator's, which may itself be inside another iterator."""
    return bool(frame.f_code.co_flags & inspect.CO_GENERATOR)


def check_wrapped(loop: object) -> None:
    """Raise ContractError where something else is asked for its next value before the steps are: it would be one ahead."""
    _check_order(_around(loop))


def _check_order(around: list[tuple[Any, object]]) -> None:
    for outer, inner in around:
        first = _iterators(outer)[0] if type(outer) in _TOGETHER else inner
        if first is not inner:
            line = own_line(next(user_frames(), None))
            raise ContractError(
                f"{type(outer).__name__}() at {line} takes run.steps() after another iterable, which is asked first and so is out of step "
                f"on a trainer that joins, and at the end; put run.steps() first: for step, value in zip(run.steps(n), values)"
            )


def catch_up(loop: object, num_steps: int) -> None:
    """Have what wraps the loop count the steps before the first that this trainer is given."""
    if not num_steps or not (around := _around(loop)):
        return
    _check_order(around)
    for outer, _ in around:
        if isinstance(outer, enumerate):
            _add(outer, num_steps)
        elif isinstance(outer, itertools.islice):
            outer.__setstate__(_reduced(outer)[2] + num_steps)  # type: ignore[attr-defined]
        else:
            for other in _iterators(outer)[1:]:
                for _ in itertools.islice(other, num_steps):
                    pass


def _iterators(together: Any) -> tuple[Any, ...]:
    """Return what is asked in turn, in order."""
    return tuple(_reduced(together)[1][_TOGETHER[type(together)] :])


def _reduced(iterator: Any) -> tuple[Any, ...]:
    return tuple(iterator.__reduce__())


def _add(counter: enumerate[Any], num: int) -> None:
    """Have an enumerate count on from as many more."""
    number = ctypes.c_ssize_t.from_address(id(counter) + _INDEX)
    before = _reduced(counter)[1][1]
    if number.value != before:
        raise ContractError(
            f"enumerate() around run.steps() cannot be made to count from {before + num} on this build of Python; use step.number"
        )
    number.value = before + num


def _around(loop: object) -> list[tuple[Any, object]]:
    """Return what wraps the loop and what it wraps, innermost first."""
    # in no tuples as long as it is looked for: a tuple's holders are looked for too, as it may be a zip's
    outers: list[Any] = []
    inners: list[object] = []
    for inner in [loop, *_generators()]:
        while (outer := _holder(inner)) is not None:
            outers.append(outer)
            inners.append(inner)
            inner = outer
    return list(zip(outers, inners, strict=True))


def _generators() -> Iterator[Any]:
    """Yield the generators through which the steps are asked for, innermost first."""
    frames, frame = [], sys._getframe(1)
    while frame is not None:
        if frame.f_code.co_flags & inspect.CO_GENERATOR and frame.f_code is not _generators.__code__:
            frames.append(frame)
        frame = frame.f_back  # type: ignore[assignment]
    made: dict[int, Any] = {}
    for generation in range(3):  # the youngest objects first: these were made a moment ago
        if len(made) < len(frames):
            young = gc.get_objects(generation)
            made.update((id(g.gi_frame), g) for g in young if type(g) is GeneratorType and g.gi_frame in frames)
    yield from (made[id(f)] for f in frames if id(f) in made)


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
