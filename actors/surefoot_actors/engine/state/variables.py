"""Variables of the user's functions and modules, read and written from outside."""

from __future__ import annotations

import ctypes
import gc
import inspect
import sys
import threading
import types
from typing import Any

__all__ = ["Globals", "Variables"]


class _Mark:
    """Lies in a variable for a moment, so that what holds the variable's value is found."""

    def __init__(self, name: str) -> None:
        self.name = name


_UNSET = object()


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

        Each gets another value for a moment, which what holds it is then found by.
        """
        frame, names = self._frame(), self._code.co_cellvars + self._code.co_freevars
        if frame is None or not names:
            return {}
        before = {name: frame.f_locals.get(name, _UNSET) for name in names}
        marks = [_Mark(name) for name in names]
        _write(frame, {mark.name: mark for mark in marks})
        found = {}
        for holder in gc.get_referrers(*marks):
            if type(holder) is types.CellType and isinstance(mark := holder.cell_contents, _Mark):
                found[mark.name] = holder
        for name, cell in found.items():
            if before[name] is _UNSET:
                del cell.cell_contents
            else:
                cell.cell_contents = before[name]
        return found


def _write(frame: types.FrameType, values: dict[str, Any]) -> None:
    frame.f_locals.update(values)
    ctypes.pythonapi.PyFrame_LocalsToFast(ctypes.py_object(frame), ctypes.c_int(0))


class Globals:
    """The global variables of a module."""

    def __init__(self, values: dict[str, Any]) -> None:
        self.values = values
