"""Variables of the user's functions and modules, read and written from outside."""

from __future__ import annotations

import ctypes
import gc
import inspect
import itertools
import operator
import sys
import threading
import types
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any

__all__ = ["Globals", "Variables"]


class _Mark:
    """Lies in a variable for a moment, so that what holds the variable's value is found."""

    def __init__(self, name: str) -> None:
        self.name = name


class Variables:
    """The local variables of a function that is under way, in a frame that waits: read and written as a debugger does.

    A generator's frame is not kept, as it would keep the iterator over steps that the generator holds when the loop lets go of it: it is
    found in the stack, where it is whenever a step is asked for.
    """

    def __init__(self, frame: types.FrameType) -> None:
        self._code, self._thread = frame.f_code, threading.get_ident()
        self._kept = None if frame.f_code.co_flags & inspect.CO_GENERATOR else frame

    @property
    def code(self) -> types.CodeType:
        return self._code

    def _frame(self) -> types.FrameType | None:
        frame = self._kept or sys._current_frames().get(self._thread)
        while frame is not None and frame.f_code is not self._code:
            frame = frame.f_back
        return frame

    def read(self) -> dict[str, Any]:
        frame = self._frame()
        values = frame.f_locals if frame is not None else {}
        return {name: value for name, value in values.items() if not name.startswith((".", "__"))}

    def write(self, name: str, value: Any) -> None:
        """Give a variable a value. Only while the frame waits in a call."""
        frame, code = self._frame(), self._code
        if frame is not None and name in code.co_varnames + code.co_cellvars + code.co_freevars:
            _write(frame, {name: value})

    def cells(self) -> dict[str, types.CellType]:
        """Return what holds the values of those variables that functions inside close over; nothing else tells.

        Each gets another value for a moment, which what holds it is then found by. That moment is one call into C, so that no other
        thread, which may run one of these functions, sees it.
        """
        frame, names = self._frame(), self._code.co_cellvars + self._code.co_freevars
        if frame is None or not names:
            return {}
        before: dict[str, Any] = {}
        marks = {name: _Mark(name) for name in names}
        holders: list[Any] = []
        held: list[Any] = []
        found = itertools.chain.from_iterable(itertools.starmap(gc.get_referrers, [list(marks.values())]))
        contents = map(getattr, holders, itertools.repeat("cell_contents"), itertools.repeat(None))
        acts: list[Callable[[], Any]] = [
            partial(getattr, frame, "f_locals"), partial(before.update, frame.f_locals), *_writing(frame, marks),
            partial(holders.extend, found), partial(held.extend, contents), *_writing(frame, before),
        ]  # fmt: skip
        _at_once(acts)
        marked = {id(mark): name for name, mark in marks.items()}
        cells = {
            marked[id(m)]: h
            for h, m in zip(holders, held, strict=True)
            if type(h) is types.CellType and id(m) in marked
        }
        for name in cells.keys() - before.keys():
            del cells[name].cell_contents
        return cells


def _write(frame: types.FrameType, values: dict[str, Any]) -> None:
    _at_once(_writing(frame, values))


def _at_once(acts: list[Callable[[], Any]]) -> None:
    """Make these calls into C as one, in which no other thread gets its turn."""
    deque(map(operator.call, acts), maxlen=0)


def _writing(frame: types.FrameType, values: dict[str, Any]) -> list[Callable[[], Any]]:
    """Return calls that write variables; what they write goes into the frame where that has been read just before."""
    fast = partial(ctypes.pythonapi.PyFrame_LocalsToFast, ctypes.py_object(frame), ctypes.c_int(0))
    return [partial(getattr, frame, "f_locals"), partial(frame.f_locals.update, values), fast]


class Globals:
    """The global variables of a module."""

    def __init__(self, values: dict[str, Any]) -> None:
        self.values = values
