"""Where iterators are: that one has gone on can be seen, though nothing can put it there on another trainer."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Hashable, Iterable, Iterator
from types import GeneratorType
from typing import Any, NamedTuple

from surefoot_actors.engine.state.portable import PLAIN

__all__ = ["At", "Iterators", "progress"]


class At(NamedTuple):
    """Which iterator, and how far it is."""

    of: Any
    place: tuple[Any, ...]


class Iterators:
    """Those in reach, and where each was when the loop began, or when it was found."""

    def __init__(self) -> None:
        self._held: dict[Hashable, tuple[At, Callable[[], Any]]] = {}

    def keep(self, key: Hashable, value: Any, now: At, first: Any) -> None:
        """Keep one that is there by now. `first`: what was there when the loop began."""
        was = first if isinstance(first, At) and first.of == now.of else now
        self._held[key] = was, now.of if isinstance(now.of, weakref.ref) else lambda: value

    def gone_on(self) -> Iterator[Any]:
        """Yield the keys of those that have gone on since."""
        for key, (was, held) in self._held.items():
            value = held()
            now = progress(value) if value is not None else None
            if isinstance(now, At) and now != was:
                yield key


class _OwnError(Exception):
    """It goes through the steps: where that is, every trainer knows."""


def progress(value: Any) -> At | None:
    """Return where an iterator is; None for what is none, or shows nothing of it."""
    if not hasattr(type(value), "__next__"):
        return None
    try:
        return At(_itself(value), tuple(_place(value)))
    except _OwnError:
        return None
    except Exception:  # noqa: BLE001  the edge to objects of others, that may not like to be looked at
        return None


def _itself(value: Any) -> Any:
    """Return what is equal for one object alone, without keeping it."""
    try:
        return weakref.ref(value)
    except TypeError:
        return id(value)


def _place(value: Any) -> Iterator[Any]:
    if isinstance(value, GeneratorType):
        frame, held = value.gi_frame, _held(value)
        if any(_asks_for_steps(each) for each in held.values()):
            raise _OwnError
        yield -1 if frame is None else frame.f_lasti
        # not what it closes over, which others may change
        yield from _plain((k, v) for k, v in held.items() if k in value.gi_code.co_varnames)
    elif type(value).__module__.startswith("surefoot_actors."):
        raise _OwnError
    elif type(value).__module__ in ("builtins", "itertools"):
        yield from _inside(value.__reduce__()[1:])
    else:
        yield from _plain(vars(value).items())


def _held(generator: GeneratorType[Any, Any, Any]) -> dict[str, Any]:
    return generator.gi_frame.f_locals if generator.gi_frame is not None else {}


def _asks_for_steps(value: Any, deep: int = 4) -> bool:
    """Whether it is the loop over steps, or a generator around it."""
    if isinstance(value, GeneratorType):
        return deep > 0 and any(_asks_for_steps(each, deep - 1) for each in _held(value).values())
    return hasattr(type(value), "__next__") and type(value).__module__.startswith("surefoot_actors.")


def _inside(values: Iterable[Any]) -> Iterator[Any]:
    """What an iterator of Python's own goes through, and its own count."""
    for value in values:
        if type(value) in PLAIN:
            yield value
        elif isinstance(value, tuple):
            yield from _inside(value)
        elif isinstance(value, list):
            yield len(value)
        elif hasattr(type(value), "__next__"):
            yield from _place(value)


def _plain(items: Iterable[tuple[str, Any]]) -> Iterator[Any]:
    return ((name, value) for name, value in items if type(value) in PLAIN and value == value)
