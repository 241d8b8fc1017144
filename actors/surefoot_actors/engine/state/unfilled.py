"""What is unset, and may be filled by an inner loop when it is first needed, however late: looked at in every round, and so cheaply."""

from __future__ import annotations

import types
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from surefoot_actors.engine.data.code import is_users
from surefoot_actors.engine.state.parts import DELETED, Slot, file_of_code, is_of_the_user
from surefoot_actors.engine.state.variables import Globals, Variables

__all__ = ["Unfilled"]

# So many things are looked at: more would take longer than they are worth.
_MOST = 256
# Containers that hold more are caches, or data.
_LARGE = 64


class _Names(NamedTuple):
    """A thing whose parts have names, those that are unset, and how many there are."""

    name: str
    how: str
    thing: Any
    unset: dict[Any, Any]


class Unfilled:
    """Made of what is in reach, once it is known what rounds change each time."""

    def __init__(self, walked: Mapping[str, Any], left_alone: Iterable[tuple[str, Slot]]) -> None:
        known = set(left_alone)
        self._names: list[_Names] = []
        self._lengths: list[int] = []
        self._lists: list[tuple[str, list[Any]]] = []
        for name, thing in walked.items():
            if len(self._names) + len(self._lists) >= _MOST:
                break
            if type(thing) is list:
                if not thing and (name, ("all", None)) not in known:
                    self._lists.append((name, thing))
                continue
            how = _how(thing)
            if how and (name, ("order", None)) not in known:
                unset = {k: v for k, v in _values(thing).items() if _is_unset(v) and (name, (how, k)) not in known}
                self._names.append(_Names(name, how, thing, unset))
        self.begin()

    def begin(self) -> None:
        """A round begins: what the loop has filled since the last one is filled for good."""
        self._lengths = []
        for held in self._names:
            values = _values(held.thing)
            self._lengths.append(len(values))
            if held.unset:
                for key in [k for k, v in held.unset.items() if values.get(k, DELETED) is not v]:
                    del held.unset[key]
        self._lists = [(name, each) for name, each in self._lists if not each]

    def filled(self) -> dict[tuple[str, Slot], Any]:
        """Return what has been filled since the round began, and what was there before. It is not told again."""
        found: dict[tuple[str, Slot], Any] = {}
        for i, held in enumerate(self._names):
            values = _values(held.thing)
            if held.unset:
                for key in [k for k, v in held.unset.items() if values.get(k, DELETED) is not v]:
                    found[held.name, (held.how, key)] = held.unset.pop(key)
            before = self._lengths[i]
            if held.how in ("attribute", "key") and before < len(values) <= _LARGE:
                found.update({(held.name, (held.how, key)): DELETED for key in list(values)[before:]})
                self._lengths[i] = len(values)
        filled = [(name, each) for name, each in self._lists if each]
        found.update({(name, ("all", None)): [] for name, _ in filled})
        if filled:
            self._lists = [(name, each) for name, each in self._lists if not each]
        return found


def _how(thing: Any) -> str | None:
    """Return how parts of a thing are reached; None for what is not looked at."""
    if isinstance(thing, Variables | Globals):
        return "variable"
    if isinstance(thing, dict):
        return "key" if len(thing) <= _LARGE else None
    if isinstance(thing, types.FunctionType):
        return "cell" if thing.__closure__ and is_users(file_of_code(thing.__globals__.get("__name__", ""))) else None
    if isinstance(thing, type):
        return "class" if is_of_the_user(thing) else None
    return "attribute" if is_of_the_user(type(thing)) and hasattr(thing, "__dict__") else None


def _values(thing: Any) -> Mapping[Any, Any]:
    if isinstance(thing, Variables):
        return thing.read()
    if isinstance(thing, Globals):
        return thing.values
    if isinstance(thing, types.FunctionType):
        return {i: _content(cell) for i, cell in enumerate(thing.__closure__ or ())}
    found: Mapping[Any, Any] = thing if isinstance(thing, dict) else vars(thing)
    return found


def _content(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # it has no value yet
        return DELETED


def _is_unset(value: Any) -> bool:
    return value is None or value is False
