"""The iterator that `run.steps` returns, which notices when the user's code leaves the loop by break or return.

Leaving it is a decision like any other: training ends at this step's boundary, on one trainer the code after the loop runs, on the
others it does not. An iterator cannot refuse to be left, but it is told: when the loop lets go of it, its `__del__` runs in the
midst of the user's frame. What is to be raised there goes by a trace function, as a debugger's breakpoint does: before the next line.
"""

from __future__ import annotations

import dis
import inspect
import sys
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any, Protocol

from surefoot import contract
from surefoot_actors.engine.contract.nested import check_not_nested
from surefoot_actors.engine.contract.wrapped import catch_up, check_wrapped, is_passed_on, may_wrap

__all__ = ["StepsIterator", "Training"]

# What a frame executes when a loop lets go of its iterator by break or return. Anything else there is an exception on its way.
_LETS_GO = {dis.opmap[name] for name in ("POP_TOP", "POP_ITER", "END_FOR") if name in dis.opmap}


class Training(Protocol):
    """What the loop asks of the run."""

    def next_step(self) -> contract.Step | None:
        """End the step before, if there is one, and begin the next; None: training is over."""

    def finish(self) -> None:
        """Training is over: return on the trainer that is to run the code after the loop, raise on the others."""

    def leave(self) -> None:
        """The user's code has left the loop: end the step, and finish."""

    def steps_left(self) -> int | None:
        """How many steps are left, if nothing ends training early; None: not known yet."""


class StepsIterator(Iterator[contract.Step]):
    """The loop over steps, as the user's `for` sees it."""

    def __init__(self, training: Training) -> None:
        self._training = training
        self._thread = threading.get_ident()
        self._under_way = False
        self._begun = False
        # whether it may be inside of enumerate(), zip() or the like
        self._may_be_wrapped = False

    def __len__(self) -> int:
        # for progress bars: those that get a TypeError here show no end
        if (left := self._training.steps_left()) is None:
            raise TypeError(
                "how many steps so many epochs have is known once the first inner loop has told the dataset"
            )
        return left

    def __iter__(self) -> Iterator[contract.Step]:
        self._may_be_wrapped = self._may_be_wrapped or may_wrap(sys._getframe(1))
        return self

    def __next__(self) -> contract.Step:
        self._under_way = False
        if not self._begun:
            check_not_nested()
            self._may_be_wrapped = self._may_be_wrapped or is_passed_on(sys._getframe(1))
            if self._may_be_wrapped:
                check_wrapped(self)
        step = self._training.next_step()
        if step is None:
            self._training.finish()
            raise StopIteration
        if not self._begun:
            self._begun = True
            if self._may_be_wrapped:
                catch_up(self, step.number)
        self._under_way = True
        return step

    def __del__(self) -> None:
        if not self._under_way or threading.get_ident() != self._thread:
            return
        self._under_way = False
        frame = _leaving(sys._getframe(1))
        if frame is None:
            return
        try:
            self._training.leave()
        except BaseException as error:  # noqa: BLE001  passed on: to where the loop was left
            _raise_in(frame, error)


def _leaving(frame: FrameType | None) -> FrameType | None:
    """Return the frame that has just let go of the loop by break or return, None when an exception is passing through it.

    A generator in between (tqdm, say) is closed by the frame that let go of it.
    """
    while frame is not None and frame.f_code.co_flags & inspect.CO_GENERATOR:
        frame = frame.f_back
    if frame is None or frame.f_code.co_code[frame.f_lasti] not in _LETS_GO:
        return None
    return frame


def _raise_in(frame: FrameType, error: BaseException) -> None:
    """Raise an error in a frame below, before its next line or as it returns.

    A trace function of the thread (a debugger's) is gone afterwards.
    """

    def trace(_frame: FrameType, _event: str, _argument: Any) -> None:
        frame.f_trace = None
        raise error

    frame.f_trace = trace
    frame.f_trace_lines = True
    sys.settrace(lambda *_: None)
