"""Sets, with the order in which they are gone through: code takes `list(pool)[:10]` and `pool.pop()`.

That order is the order of a table inside, and depends on how large it has become: one that once held many elements stays large.
"""

from __future__ import annotations

import sys
from typing import Any

from surefoot_actors.engine.state.containers import elements_of, method_of

__all__ = ["fill_set", "read_set"]

Content = tuple[list[Any], int]
"""The elements in order, and the bytes of the set."""

# So many elements are put in and taken out, at most, for a table to grow.
_MOST = 1 << 20
_EMPTY, _ENTRY = sys.getsizeof(set()), 16
# An element lies at most so many places after its own, where others are in its way.
_PROBES = 10


def read_set(thing: set[Any]) -> Content:
    """Return what `fill_set` needs to make a set that is gone through in the same order."""
    return elements_of(thing), sys.getsizeof(thing)


def fill_set(thing: set[Any], content: Content) -> None:
    """Give a set these elements; where one of another history has a larger table, in a table as large."""
    elements, size = content
    method_of(thing, "clear")()
    method_of(thing, "update")(elements)
    if elements_of(thing) != elements and sys.getsizeof(thing) < size:
        method_of(thing, "clear")()
        _grow(thing, elements, size)
        add = method_of(thing, "add")
        for element in elements:
            add(element)


def _grow(thing: set[Any], elements: list[Any], size: int) -> None:
    """Make the table as large as it is to be, by numbers that lie where no element does."""
    places = max(8, (size - _EMPTY) // _ENTRY)
    taken = {hash(element) % places for element in elements}
    stand_ins, add = [], method_of(thing, "add")
    number = 0
    while sys.getsizeof(thing) < size and number < min(places, _MOST):
        number += 1
        if not any((number - k) in taken for k in range(_PROBES)):
            stand_ins.append(number)
            add(number)
    method_of(thing, "difference_update")(stand_ins)
