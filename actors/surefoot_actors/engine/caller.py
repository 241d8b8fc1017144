"""Which line of the user's code is running: errors name it."""

from __future__ import annotations

import os
import sys

import torch

import surefoot
import surefoot_actors
from surefoot_actors.user_code import places

__all__ = ["is_ours", "user_line"]

# Frames of these packages are never the user's.
_OURS = tuple(os.path.dirname(os.path.abspath(str(m.__file__))) + os.sep for m in (surefoot, surefoot_actors, torch))


def is_ours(file: str) -> bool:
    """Whether a file belongs to Surefoot or torch."""
    return file.startswith(_OURS)


def user_line(skip: int = 2) -> str:
    """Return "file.py:12" of the innermost frame outside Surefoot and torch, at least `skip` frames up.

    A file whose name another file of the user's has too is named by its path in the package.
    """
    frame = sys._getframe(skip)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_OURS):
        frame = frame.f_back
    return f"{places.shown(frame.f_code.co_filename)}:{frame.f_lineno}"
