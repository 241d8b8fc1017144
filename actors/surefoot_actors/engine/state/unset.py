"""What is filled when it is first needed: `if self.mean is None: self.mean = x.mean(0)`, `words.setdefault(word, len(words))`."""

from __future__ import annotations

import io
import types
from collections import deque
from typing import Any

from surefoot_actors.engine.state.parts import Slot, is_of_the_user
from surefoot_actors.engine.state.portable import PLAIN
from surefoot_actors.engine.state.variables import Globals, Variables
from surefoot_actors.user_code.frames import PROXIES

__all__ = ["has_a_place", "may_be_unset"]

_CONTAINERS = (dict, list, set, deque)
_OWN = (Variables, Globals, types.FunctionType, *_CONTAINERS)

# What has one of these has a place of its own in something outside: a file, a database, a connection.
_OF_PLACES = ("seek", "fileno", "cursor", "recv")

# More in one container is not copied.
_MOST = 4096


def may_be_unset(thing: Any, slot: Slot, value: Any) -> bool:
    """Whether a part of the user's own may stand for something that has no value yet; a container for what is not in it yet."""
    if not (isinstance(thing, _OWN) or is_of_the_user(thing if isinstance(thing, type) else type(thing))):
        return False
    if slot[0] == "all":
        return isinstance(thing, _CONTAINERS) and len(thing) <= _MOST
    return slot[0] != "order" and type(value) in PLAIN and (isinstance(value, bool) or not value)


def has_a_place(value: Any) -> bool:
    """Whether this is a file that is read, or the like: opened once more it is at its beginning, whatever counts where it is."""
    if type(value) in PROXIES:
        return False
    if isinstance(value, io.IOBase):
        return not value.closed and value.readable()
    return any(hasattr(type(value), name) for name in _OF_PLACES)
