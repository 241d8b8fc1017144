"""Tracebacks as the user is shown them: files named as the package has them, without Surefoot's own frames where these tell nothing."""

from __future__ import annotations

import linecache
import os
from traceback import FrameSummary, StackSummary, TracebackException

import surefoot
import surefoot_actors
from surefoot.errors import UserError
from surefoot_actors.user_code import places
from surefoot_actors.user_code.finder import OWN

__all__ = ["told"]

_SUREFOOT = tuple(os.path.dirname(os.path.abspath(str(m.__file__))) + os.sep for m in (surefoot, surefoot_actors))
_MACHINERY = ("<frozen importlib", "<frozen runpy")


def told(error: BaseException) -> str:
    """Return the traceback, those of its causes included."""
    shown = TracebackException.from_exception(error)
    waiting: list[tuple[TracebackException, BaseException | None]] = [(shown, error)]
    while waiting:  # not by recursion: a chain of causes may be long
        one, raised = waiting.pop()
        one.stack = _tidied(one.stack, by_rule=isinstance(raised, UserError))
        waiting += [
            (below, getattr(raised, name, None))
            for name in ("__cause__", "__context__")
            if (below := getattr(one, name)) is not None
        ]
        waiting += zip(one.exceptions or (), getattr(raised, "exceptions", ()), strict=False)
    return "".join(shown.format()).replace(f"{OWN}.", "")


def _tidied(stack: StackSummary, *, by_rule: bool) -> StackSummary:
    """Leave out Surefoot's frames if a frame of the user's stays, unless it is Surefoot that raised what it does not mean to raise."""
    frames = list(stack)
    ours = [frame.filename.startswith(_SUREFOOT) for frame in frames]
    if any(places.is_users(frame.filename) for frame in frames) and (by_rule or not ours[-1]):
        frames = [frame for frame, our in zip(frames, ours, strict=True) if not our]
    frames = [frame for frame in frames if not frame.filename.startswith(_MACHINERY)]
    return StackSummary.from_list([_renamed(frame) for frame in frames])


def _renamed(frame: FrameSummary) -> FrameSummary:
    name = places.relative(frame.filename) if places.is_users(frame.filename) else None
    if name is None:
        return frame
    # the line is read here: under its new name it is no file
    return FrameSummary(
        name,
        frame.lineno,
        frame.name,
        lookup_line=False,
        line=_line_of(frame),
        end_lineno=frame.end_lineno,
        colno=frame.colno,
        end_colno=frame.end_colno,
    )


def _line_of(frame: FrameSummary) -> str | None:
    """The line with its indentation, which columns are counted from."""
    return linecache.getline(frame.filename, frame.lineno or 0) or frame.line
