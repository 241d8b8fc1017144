"""What inner loops have written into objects, dicts and variables that functions share, told by the object, whatever name leads to it.

A callback's counter is `self.n` in one of its methods, and `callback.n` where a trainer goes through its list of them.
"""

from __future__ import annotations

import ast
from collections import deque
from collections.abc import Iterator, Mapping
from types import CellType, CodeType, FunctionType
from typing import Any

from surefoot_actors.engine.contract.called import Called, called, object_of, text_key

__all__ = ["Held", "alternatives", "calls_in", "cells_of"]

_CONTAINERS = (dict, list, set, deque)
# So many objects of one list are gone through.
_MANY = 32
# What goes through the same objects.
_SAME = frozenset(("list", "tuple", "reversed", "sorted"))


class Held:
    """Places, by the thing and the name of its attribute, or "[key]"; "" stands for all that is in a container or a shared variable."""

    def __init__(self) -> None:
        # the things are kept, so that no other comes to lie at their address; and whether code outside of inner loops has written there
        self._places: dict[tuple[int, str], tuple[Any, bool]] = {}

    def copy(self) -> Held:
        other = Held()
        other._places = dict(self._places)
        return other

    def take(self, other: Held) -> None:
        self._places = other._places

    def add_all(self, other: Held) -> None:
        self._places.update(other._places)

    @property
    def carries(self) -> bool:
        return any(carried for _, carried in self._places.values())

    def holds(
        self, node: ast.expr, names: Mapping[str, Any], cells: Mapping[str, CellType], *, carried: bool = False
    ) -> bool:
        """Whether what an expression stands for is local. `carried`: where code outside of inner loops has made it so."""
        if not self._places:
            return False
        places = [(id(t), each) for t, k in _places(node, names, cells) for each in {k, "" if k.startswith("[") else k}]
        found = [self._places.get(place) for place in places]
        return any(place is not None and place[1] >= carried for place in found)

    def holds_part(self, node: ast.expr, names: Mapping[str, Any], cells: Mapping[str, CellType]) -> bool:
        """Whether something under a key of what an expression stands for is local."""
        wholes = {id(t) for t, k in _places(node, names, cells) if not k} if self._places else set()
        return any(thing in wholes and key.startswith("[") for thing, key in self._places)

    def add(
        self, node: ast.expr, names: Mapping[str, Any], cells: Mapping[str, CellType], *, carried: bool = False
    ) -> None:
        for thing, name in _places(node, names, cells):
            self._places[id(thing), name] = thing, carried

    def discard(self, node: ast.expr, names: Mapping[str, Any], cells: Mapping[str, CellType]) -> None:
        for thing, name in _places(node, names, cells):
            self._places.pop((id(thing), name), None)
            if not name:
                for place in [(t, k) for t, k in self._places if t == id(thing) and k.startswith("[")]:
                    del self._places[place]


def _places(node: ast.expr, names: Mapping[str, Any], cells: Mapping[str, CellType]) -> Iterator[tuple[Any, str]]:
    while isinstance(node, ast.Subscript | ast.Starred):
        key = text_key(node)
        if key is not None and isinstance(thing := object_of(node.value, names), dict):
            yield thing, f"[{key}]"
            return
        node = node.value
    if isinstance(node, ast.Attribute) and (owner := object_of(node.value, names)) is not None:
        yield owner, node.attr
    if isinstance(node, ast.Name) and node.id in cells:
        yield cells[node.id], ""
    if isinstance(thing := object_of(node, names), _CONTAINERS):
        yield thing, ""


def cells_of(code: CodeType, values: Mapping[str, Any]) -> dict[str, CellType]:
    """Return the shared variables of a function that is under way, as far as functions in its variables tell."""
    found: dict[str, CellType] = {}
    for value in values.values():
        if isinstance(value, FunctionType):
            named = zip(value.__code__.co_freevars, value.__closure__ or (), strict=False)
            found.update((name, cell) for name, cell in named if name in code.co_cellvars + code.co_freevars)
    return found


def alternatives(node: ast.For | ast.comprehension, names: Mapping[str, Any]) -> tuple[str, list[Any]] | None:
    """Return the variable of a loop over objects that are known, and these."""
    over: ast.expr = node.iter
    target = node.target
    if isinstance(over, ast.Call) and isinstance(over.func, ast.Name) and len(over.args) == 1:
        name, over = over.func.id, over.args[0]
        if name == "enumerate" and isinstance(target, ast.Tuple) and len(target.elts) == 2:
            target = target.elts[1]
        elif name not in _SAME:
            return None
    if isinstance(over, ast.Call) and isinstance(over.func, ast.Attribute) and over.func.attr == "values":
        held = object_of(over.func.value, names)
        things = list(dict.values(held)) if isinstance(held, dict) else None
    else:
        held = object_of(over, names)
        things = list(held) if type(held) in (list, tuple) else None
    if things is None or not isinstance(target, ast.Name) or len(things) > _MANY:
        return None
    return target.id, things


def calls_in(region: ast.AST, names: Mapping[str, Any]) -> Iterator[Called]:
    """Yield the functions that are called in a piece of code, of every object that a loop in it goes through."""
    loops = [a for n in ast.walk(region) if isinstance(n, ast.For) and (a := alternatives(n, names))]
    for node in ast.walk(region):
        if not isinstance(node, ast.Call):
            continue
        used = {n.id for n in ast.walk(node.func) if isinstance(n, ast.Name)}
        name, things = next(((name, things) for name, things in loops if name in used), ("", [None]))
        for thing in things:
            found = called(node, {**names, name: thing} if name else names)
            if found is not None:
                yield found
