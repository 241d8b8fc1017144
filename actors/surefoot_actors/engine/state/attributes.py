"""What the loop changes besides the tracked state: joiners are given it too.

Attributes of tracked objects, of datasets and of the user's own objects (`dropout.p = 0.1`, `data.stage += 1`), variables of the user's
functions and modules (`best = min(best, loss)`), what is in lists, dicts, tensors and arrays, what functions close over, attributes of
classes. They are no part of digests: what code changes in a sub-task, a cache say, may differ from trainer to trainer without harm. What
changes in the first rounds is taken for that, and left alone.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterable
from types import GeneratorType
from typing import Any

import numpy as np
import torch
import xxhash
from torch import nn

from surefoot_actors.disclosed import holds_secret
from surefoot_actors.engine.state.portable import PLAIN, content_of, digest_of, dump, load
from surefoot_actors.engine.state.reach import DELETED, Reach, Slot, is_of_the_user, of_optimizer, parts, put

__all__ = ["Attributes"]

Key = tuple[str, Slot]


class Attributes:
    """What is in reach of the user's code, compared with what it was when this was made.

    Of what is tracked, but for modules of the user's own classes, they are numbers and texts alone: the rest is state in its own right.
    """

    def __init__(
        self,
        tracked: Iterable[tuple[str, Any]] = (),
        tensors: Iterable[tuple[str, torch.Tensor]] = (),
        roots: Iterable[tuple[str, Any]] = (),
    ) -> None:
        """`tracked`: objects, `tensors`: of theirs; `roots`: variables of functions under way, and of modules."""
        self._tracked = dict(tracked)
        self._reach = Reach([*((f"tracked {n}", t) for n, t in self._tracked.items()), *tensors])
        self._first: dict[Key, Any] = {}
        # those that the objects' own code changes in sub-tasks
        self._left_alone: set[Key] = set()
        self._before: dict[Key, Any] = {}
        # what has changed in the last round that was looked at, as it was at that round's end
        self._after: dict[Key, Any] = {}
        # tensors that are no part of the tracked state, and get gradients
        self._with_gradients: set[str] = set()
        inside = [(f"{n}{k}", v) for n, t in self._tracked.items() for (_, k), v in _own(t) if type(v) not in PLAIN]
        self.add([*roots, *inside])

    def add(self, roots: Iterable[tuple[str, Any]]) -> None:
        """Look at what is in reach from here too: a function that is under way since."""
        self._reach.add(roots)
        new = ((key, value) for key, value in self._parts() if key not in self._first)
        self._first.update({key: self._token(value, key[1]) for key, value in new})

    def _parts(self) -> Iterable[tuple[Key, Any]]:
        for name, thing in self._tracked.items():
            yield from (((f"tracked {name}", slot), value) for slot, value in _own(thing))
        for name in self._reach.walked:
            thing = self._reach.thing(name)
            if thing is not None:
                yield from (((name, slot), value) for slot, value in parts(thing))

    def _now(self) -> dict[Key, Any]:
        return {key: self._token(value, key[1]) for key, value in self._parts()}

    def _token(self, value: Any, slot: Slot) -> Any:
        """Return what is equal for equal values: numbers and texts themselves, names of what was there, digests of the rest."""
        kind = type(value)
        if kind in PLAIN:
            return kind, value if value == value else "nan"
        if isinstance(value, GeneratorType):
            return _at(value)
        if slot[0] != "all":
            name = self._reach.name_of(value)
            return digest_of(value, self._reach.name_of) if name is None else name
        if isinstance(value, np.ndarray) and value.dtype.hasobject:
            return digest_of(value.tolist(), self._reach.name_of)
        if isinstance(value, torch.Tensor | np.ndarray):
            return content_of(value)
        if kind is list and PLAIN.issuperset(map(type, value)):
            return xxhash.xxh3_128_digest(pickle.dumps(value, protocol=5))
        if kind is list and len(value) > _MANY:
            return np.fromiter(map(id, value), np.int64, len(value)).tobytes()  # too many to look into each
        return digest_of(value, self._reach.name_of)

    def tells(self, thing: Any) -> bool:
        """Whether a joiner is given what the loop changes in this thing."""
        return self._reach.name_of(thing) in self._reach.walked

    def begin_round(self) -> None:
        """A round begins, in which what changes is the objects' own business."""
        self._before = self._now()

    def end_round(self) -> None:
        """Leave alone from now on what has changed in the round."""
        now = self._now()
        changed = [key for key in {**self._before, **now} if self._before.get(key) != now.get(key)]
        self._left_alone.update(changed)
        self._before, self._after = {}, {key: now.get(key) for key in changed}
        walked = self._reach.walked.items()
        self._with_gradients.update(
            n for n, t in walked if isinstance(t, torch.Tensor) and t.is_leaf and t.grad is not None
        )

    def trained_by_hand(self) -> list[str]:
        """Return the names of tensors that got gradients in sub-tasks, which nobody merges, and that the loop has changed since."""
        found = [
            (n, self._reach.thing(n))
            for n in sorted(self._with_gradients)
            if (n, ("all", None)) not in self._left_alone
        ]
        return [
            n.partition(": ")[2] or n
            for n, t in found
            if t is not None and self._token(t, ("all", None)) != self._first.get((n, ("all", None)))
        ]

    def end_step(self) -> None:
        """The step of that round ends: what the loop has written over since is its own (`loss = step.merged["loss"]`)."""
        if self._after:
            now = self._now()
            self._left_alone -= {key for key, token in self._after.items() if now.get(key) != token}
            self._after = {}

    def changed_in_round(self) -> list[str]:
        """Return the names of what has changed since the round began, for messages."""
        now = self._now()
        return sorted({_words(key) for key in {**self._before, **now} if self._before.get(key) != now.get(key)})

    def carried_on(self) -> list[str]:
        """Return the names of generators that were there when the loop began and have gone on since: nobody can be given those."""
        found = [(k, v) for k, v in self._parts() if isinstance(v, GeneratorType) and k not in self._left_alone]
        known = [(key, self._first.get(key), _at(value)) for key, value in found]
        return [_words(k) for k, was, at in known if isinstance(was, tuple) and was[0] == at[0] and was != at]

    def changed(self) -> bytes:
        """Return what the loop has changed so far, as bytes; empty: nothing."""
        now: dict[Key, Any] = {key: value for key, value in self._parts() if key not in self._left_alone}
        tokens = {key: self._token(value, key[1]) for key, value in now.items()}
        changed = {
            k: v
            for k, v in now.items()
            if tokens[k] is not None and tokens[k] != self._first.get(k) and not isinstance(v, GeneratorType)
        }
        # keys and attributes; a variable that has lost its value is of no use any more
        gone = [k for k in self._first if k not in now and k not in self._left_alone and k[1][0] in _REMOVABLE]
        gone = [k for k in gone if (k[0], ("all", None)) not in now]
        changed.update(dict.fromkeys(gone, DELETED))
        found = self._dump(changed) if changed else b""
        # a secret is each trainer's own, from its environment: it is given to nobody, and not stored with a checkpoint
        return self._dump(self._without_secrets(changed)) if holds_secret(found) else found

    def _without_secrets(self, changed: dict[Key, Any]) -> dict[Key, Any]:
        return {k: v for k, v in changed.items() if not holds_secret(self._dump({k: v}))}

    def _dump(self, changed: dict[Key, Any]) -> bytes:
        # a container's own content is in a copy, so that it is not told by the container's name
        try:
            return dump({k: _untold(k, v) for k, v in changed.items()}, self._reach.name_of)
        except Exception:  # noqa: BLE001  the edge to the user's objects: leave out those that cannot be pickled
            told = {k: v for k, v in changed.items() if _is_told(_untold(k, v), self._reach)}
            return dump({k: _untold(k, v) for k, v in told.items()}, self._reach.name_of)

    def restore(self, changed: bytes | None) -> None:
        """Give everything the values that it has elsewhere."""
        if not changed:
            return
        for (name, slot), value in load(changed, self._reach.thing).items():
            thing = self._reach.thing(name)
            if thing is not None:
                put(thing, slot, value)


# Lists of more values than this, of other kinds than numbers and texts, are compared by which values they hold.
_MANY = 4096
_REMOVABLE = ("key", "attribute")


def _untold(key: Key, value: Any) -> Any:
    """Return a tensor or array as a new object: it is its content that is told, not its name."""
    if key[1][0] != "all":
        return value
    return (
        value.detach().clone()
        if isinstance(value, torch.Tensor)
        else value.copy()
        if isinstance(value, np.ndarray)
        else value
    )


def _at(generator: GeneratorType[Any, Any, Any]) -> tuple[Any, ...]:
    """Return where a generator is."""
    frame = generator.gi_frame
    if frame is None:
        return (id(generator), -1)
    plain = [(k, v) for k, v in frame.f_locals.items() if type(v) in PLAIN and v == v]
    return (id(generator), frame.f_lasti, *plain)


def _is_told(value: Any, reach: Reach) -> bool:
    try:
        dump(value, reach.name_of)
    except Exception:  # noqa: BLE001  as above
        return False
    return True


def _own(thing: Any) -> Iterable[tuple[Slot, Any]]:
    """Yield what of a tracked object is looked at."""
    if isinstance(thing, nn.Module):
        yield from (part for part in parts(thing) if part[0][0] != "buffer")
    elif isinstance(thing, torch.optim.Optimizer):
        yield from of_optimizer(thing)
    elif not isinstance(thing, dict):
        users = is_of_the_user(type(thing))
        for name, value in list(getattr(thing, "__dict__", {}).items()):
            if users or type(value) in PLAIN:
                yield ("attribute", name), value


def _words(key: Key) -> str:
    name, (how, part) = key
    name = name.partition(":")[2] or name
    return name if how == "all" else f"{name}: {part}"
