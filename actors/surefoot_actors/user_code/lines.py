"""Which line of the user's code is running: errors name it."""

from __future__ import annotations

import os
import sys
import sysconfig
from functools import lru_cache
from types import FrameType

import torch

import surefoot
import surefoot_actors
from surefoot_actors.user_code import places

__all__ = ["is_library", "is_ours", "own_line", "raised_by_surefoot", "raised_line", "user_line"]

# Frames of these packages are never the user's.
_SUREFOOT = tuple(os.path.dirname(os.path.abspath(str(m.__file__))) + os.sep for m in (surefoot, surefoot_actors))
_OURS = (*_SUREFOOT, os.path.dirname(os.path.abspath(str(torch.__file__))) + os.sep)

# Nor are those of the standard library and of what is installed.
_LIBRARIES = tuple({sysconfig.get_path(name) + os.sep for name in ("stdlib", "platstdlib", "purelib", "platlib")})

# Where installed packages lie besides: a user's own, another environment's, the distribution's.
_INSTALLED = (f"{os.sep}site-packages{os.sep}", f"{os.sep}dist-packages{os.sep}")


def is_ours(file: str) -> bool:
    """Whether a file belongs to Surefoot or torch."""
    return file.startswith(_OURS)


def is_library(file: str) -> bool:
    """Whether a file belongs to Surefoot, torch, the standard library or what is installed."""
    return file.startswith((*_OURS, *_LIBRARIES)) or any(part in file for part in _INSTALLED)


def user_line(skip: int = 2) -> str:
    """Return "file.py:12" of the innermost frame outside Surefoot and torch, at least `skip` frames up.

    A file whose name another file of the user's has too is named by its path in the package.
    """
    frame = sys._getframe(skip)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_OURS):
        frame = frame.f_back
    return _shown(frame.f_code.co_filename, frame.f_lineno)


def own_line(frame: FrameType | None) -> str:
    """Return "file.py:12" of the innermost frame that is neither ours nor a library's; of the innermost that is not ours, failing that."""
    places = []
    while frame is not None:
        places.append((frame.f_code.co_filename, frame.f_lineno))
        frame = frame.f_back
    return _own(places)


def raised_by_surefoot(error: BaseException) -> bool:
    """Whether the frame that raised an error is one of Surefoot's own."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace is not None and trace.tb_frame.f_code.co_filename.startswith(_SUREFOOT)


def raised_line(error: BaseException) -> str:
    """Return as `own_line` does, of the frames that an error went through; empty: there is none."""
    places, trace = [], error.__traceback__
    while trace is not None:
        places.append((trace.tb_frame.f_code.co_filename, trace.tb_lineno))
        trace = trace.tb_next
    return _own(places[::-1])


def _own(places: list[tuple[str, int]]) -> str:
    """`places`: innermost first."""
    theirs = [(file, line) for file, line in places if not is_ours(file) and not file.startswith("<")]
    own = next((place for place in theirs if not place[0].startswith(_LIBRARIES)), theirs[0] if theirs else None)
    return _shown(*own) if own is not None else ""


@lru_cache(maxsize=1024)
def _shown(path: str, line: int) -> str:
    return f"{places.shown(path)}:{line}"
