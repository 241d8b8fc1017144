"""What is filled when it is first needed: `if self.mean is None: self.mean = x.mean(0)`, `words.setdefault(word, len(words))`."""

from __future__ import annotations

import types
from collections import deque
from typing import Any

from surefoot_actors.engine.state.parts import Slot, is_of_the_user
from surefoot_actors.engine.state.portable import PLAIN
from surefoot_actors.engine.state.variables import Globals, Variables

__all__ = ["may_be_unset"]

_CONTAINERS = (dict, list, set, deque)
_OWN = (Variables, Globals, types.FunctionType, *_CONTAINERS)

# More in one container is not copied.
_MOST = 4096


def may_be_unset(thing: Any, slot: Slot, value: Any) -> bool:
    """Whether a part of the user's own may stand for something that has no value yet; a container for what is not in it yet."""
    if not (isinstance(thing, _OWN) or is_of_the_user(thing if isinstance(thing, type) else type(thing))):
        return False
    if slot[0] == "all":
        return isinstance(thing, _CONTAINERS) and len(thing) <= _MOST
    return slot[0] != "order" and type(value) in PLAIN and (isinstance(value, bool) or not value)
