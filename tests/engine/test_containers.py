"""Containers of the user's own classes are read and put back without running the user's methods, which may count, log or refuse."""

from __future__ import annotations

import copy
from array import array
from collections import Counter, OrderedDict, defaultdict, deque
from typing import Any

import pytest

from surefoot_actors.engine.state.parts import DELETED, parts, put

# Of each kind one that holds something, and what it holds besides later.
KINDS: list[tuple[Any, Any]] = [
    ([1, 2], [1, 2, 3]),
    (deque([1, 2], maxlen=3), deque([2, 3, 4], maxlen=3)),
    ({1, 2}, {1, 2, 3}),
    ({"a": 1, "b": 2}, {"b": 2, "a": 3, "c": 4}),
    ({0.5: 1, (1, "x"): 2}, {0.5: 3}),
    (OrderedDict(a=1, b=2), OrderedDict(b=2, a=1)),
    (Counter("aab"), Counter("abbb")),
    (defaultdict(list, a=[1]), defaultdict(list, a=[1], b=[2])),
    (bytearray(b"ab"), bytearray(b"abc")),
    (array("d", [1.0]), array("d", [1.0, 2.0])),
]
SPECIAL = {"__setitem__", "__delitem__", "__iter__", "__len__", "__contains__", "__getitem__", "__bool__"}


def refusing(kind: type) -> type:
    """Return a class like this one whose own methods all refuse."""

    def refuses(self: Any, *_: Any, **__: Any) -> Any:
        raise AssertionError("the user's method is called")

    return type("Refusing", (kind,), {name: refuses for name in dir(kind) if name[0] != "_" or name in SPECIAL})


def plain(kind: type, thing: Any) -> Any:
    """Return what is in a thing, in order, whatever its own methods do."""
    content = kind.items if issubclass(kind, dict) else kind.__iter__  # type: ignore[attr-defined]
    return list(content(thing))


def told(thing: Any) -> list[Any]:
    """Return the parts that are in a thing; of a set without the size of its table, in which the object's own is."""
    found = [part for part in parts(thing) if part[0][0] in ("key", "all", "order")]
    return [value[0] for _, value in found] if isinstance(thing, set) else found


@pytest.mark.parametrize(
    ("before", "after"), KINDS, ids=[type(kind).__name__ + str(i) for i, (kind, _) in enumerate(KINDS)]
)
def test_nothing_of_the_users_is_run(before: Any, after: Any) -> None:
    kind, thing = type(before), copy.copy(after)
    expected = plain(kind, before)
    found = list(parts(before))
    own = refusing(kind)
    held: Any = own.__new__(own, "d") if kind is array else own.__new__(own)
    if kind is deque:
        deque.__init__(held, after, after.maxlen)
    elif kind is array:
        array.extend(held, after)
    elif kind is defaultdict:
        defaultdict.__init__(held, list)
        dict.update(held, after)
    elif issubclass(kind, dict):
        for key, value in after.items():
            kind.__setitem__(held, key, value)
    else:
        kind.__init__(held, after)
    assert told(held) == told(thing)
    known = {slot for slot, _ in found}
    for slot, _ in list(parts(held)):
        if slot not in known and slot[0] == "key":
            put(held, slot, DELETED)
    for slot, value in sorted(found, key=lambda part: part[0][0] == "order"):
        put(held, slot, value)
    assert plain(kind, held) == expected


def test_order_of_a_class_that_goes_through_itself_otherwise() -> None:
    class Backwards(list[int]):
        def __iter__(self) -> Any:
            return reversed(self[:])

    thing = Backwards([1, 2, 3])
    for slot, value in list(parts(thing)):
        put(thing, slot, value)
    assert thing[:] == [1, 2, 3]


class StandIn:
    """What proxies of libraries are: they say that they are what they stand for, and are not of its class."""

    def __init__(self, thing: Any) -> None:
        self.__dict__["thing"] = thing

    __class__ = property(lambda self: type(self.thing))  # type: ignore[assignment]

    def __getattr__(self, name: str) -> Any:
        return getattr(self.thing, name)


@pytest.mark.parametrize(
    "before", [before for before, _ in KINDS], ids=[type(kind).__name__ + str(i) for i, (kind, _) in enumerate(KINDS)]
)
def test_what_only_says_that_it_is_a_container_is_asked_itself(before: Any) -> None:
    held, expected = StandIn(copy.copy(before)), plain(type(before), before)
    for slot, value in sorted(parts(held), key=lambda part: part[0][0] == "order"):
        if slot[0] in ("key", "all", "order"):
            put(held, slot, value)
    assert plain(type(before), held.thing) == expected
