"""What the loop changes besides the tracked state: joiners are given it too.

Attributes of tracked objects, of datasets and of the user's own objects (`dropout.p = 0.1`, `data.stage += 1`), variables of the user's
functions and modules (`best = min(best, loss)`), what is in lists, dicts, tensors and arrays, what functions close over, attributes of
classes. They are no part of digests: what code changes in a sub-task, a cache say, may differ from trainer to trainer without harm. What
changes in the first rounds is taken for that, and left alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import cached_property
from types import GeneratorType
from typing import Any

import numpy as np
import torch
from torch import nn

from surefoot_actors.disclosed import holds_secret
from surefoot_actors.engine.state.generators import GENERATORS
from surefoot_actors.engine.state.hung import hung_on
from surefoot_actors.engine.state.inside import is_inside
from surefoot_actors.engine.state.iterators import At, Iterators, progress
from surefoot_actors.engine.state.left import REMOVABLE, Left
from surefoot_actors.engine.state.made_before import MOST_IN_ALL, code_of, is_made_before, size_of
from surefoot_actors.engine.state.parts import DELETED, Slot, attributes_of, is_of_the_user, of_optimizer, parts, put
from surefoot_actors.engine.state.portable import PLAIN, content_of, digest_of, dump, load
from surefoot_actors.engine.state.reach import Reach
from surefoot_actors.engine.state.remembered import Remembered
from surefoot_actors.engine.state.unset import has_a_place, may_be_unset
from surefoot_actors.user_code.frames import PROXIES

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
        self._tracked, self._tensors = dict(tracked), list(tensors)
        self._reach = Reach([*((f"tracked {n}", t) for n, t in self._tracked.items()), *self._tensors])
        self._first: dict[Key, Any] = {}
        # those that the objects' own code changes in sub-tasks
        self._left_alone: set[Key] = set()
        self._before: dict[Key, Any] = {}
        # in how many rounds of the run it was looked at what changes in them
        self._num_rounds = 0
        # what has changed in the last round that was looked at, as it was at that round's end
        self._after: dict[Key, Any] = {}
        # by key, as it was when the round began: what may be filled when it is first needed
        self._unset: dict[Key, Any] = {}
        # what the first sub-task has filled, and would have filled so with any other batch
        self._alike: dict[Key, Any] = {}
        #: what rounds have left that joiners are not given
        self.left = Left(self._parts, self._token, self._reach.thing, self._left_alone)
        self._iterators = Iterators()
        self._inside: Callable[[Any], str | None] = lambda _: None
        # tensors that are no part of the tracked state, and get gradients
        self._with_gradients: set[str] = set()
        inside = [(f"{n}{k}", v) for n, t in self._tracked.items() for (_, k), v in _own(t) if type(v) not in PLAIN]
        inside += [(f"{n}{k}", v) for n, t in self._tensors for (_, k), v in attributes_of(t) if type(v) not in PLAIN]
        hung = [(f"{n}{k}", v) for n, t in self._tracked.items() for k, v in hung_on(t)]
        self.add([*roots, *inside, *hung])

    def add(self, roots: Iterable[tuple[str, Any]]) -> None:
        """Look at what is in reach from here too: a function that is under way since."""
        self._reach.add(roots)
        new = ((key, value) for key, value in self._parts() if key not in self._first)
        self._first.update({key: self._token(value, key[1]) for key, value in new})

    def refresh(self) -> None:
        """Called by the thread that trains where it comes by: its context variables are looked at, or set."""
        self._reach.context.refresh()

    def _parts(self) -> Iterable[tuple[Key, Any]]:
        for name, thing in self._tracked.items():
            yield from (((f"tracked {name}", slot), value) for slot, value in _own(thing))
        for name, tensor in self._tensors:
            if tensor.__dict__:
                yield from (((name, slot), value) for slot, value in attributes_of(tensor))
        for name in self._reach.walked:
            thing = self._reach.thing(name)
            if thing is not None:
                yield from (((name, slot), value) for slot, value in parts(thing))

    def _now(self) -> dict[Key, Any]:
        return {key: self._token(value, key[1]) for key, value in self._parts()}

    def _token(self, value: Any, slot: Slot) -> Any:
        """Return what is equal for equal values: numbers and texts themselves, names of what was there, digests of the rest."""
        kind = type(value)
        if kind in PROXIES:
            return None
        if kind in PLAIN:
            return kind, value if value == value else "nan"
        if isinstance(value, GeneratorType):
            return progress(value)
        if slot[0] != "all":
            return self._reach.name_of(value) or digest_of(value, self._reach.name_of) or progress(value)
        if isinstance(value, np.ndarray) and value.dtype.hasobject:
            return digest_of(value.tolist(), self._reach.name_of)
        if isinstance(value, torch.Tensor | np.ndarray):
            return content_of(value)
        if kind is list and len(value) > _MANY and _UNCHANGING.issuperset(map(type, value)):
            return np.fromiter(map(id, value), np.int64, len(value)).tobytes()  # too many to look into each
        return digest_of(value, self._reach.name_of)

    def tells(self, thing: Any) -> bool:
        """Whether a joiner is given what the loop changes in this thing."""
        return self._reach.name_of(thing) in self._reach.walked

    def keeps(self, thing: Any) -> bool:
        """Whether a joiner is given what this thing holds, as sub-tasks leave it alone."""
        return self.tells(thing) and (self._reach.name_of(thing), ("all", None)) not in self._left_alone

    def generators(self) -> list[tuple[str, Any]]:
        """Return the random generators in reach, by name."""
        return [(_words((n, ("all", None))), t) for n, t in self._reach.walked.items() if isinstance(t, GENERATORS)]

    def written_in_sub_tasks(self) -> Iterator[tuple[str, Any]]:
        """Yield buffers that sub-tasks write, by name, and their modules."""
        for name, module in self._reach.walked.items():
            for key, buffer in module._buffers.items() if isinstance(module, nn.Module) else ():
                if (self._reach.name_of(buffer), ("all", None)) in self._left_alone:
                    yield _words((name, ("buffer", key))), module

    @property
    def looks(self) -> bool:
        """Whether it is still to be seen what rounds change."""
        return self._num_rounds < _ROUNDS_LOOKED_AT

    def begin_round(self, *, tries: bool = False) -> None:
        """A round begins, in which what changes is the objects' own business. `tries`: its first sub-task is computed again."""
        self.refresh()
        _ = self._maker  # before any of it is gone
        found = list(self._parts())
        self._before = {key: self._token(value, key[1]) for key, value in found}
        self._unset = {k: v for k, v in found if may_be_unset(self._reach.thing(k[0]), k[1], v)} if tries else {}
        if tries and not self._num_rounds:
            self.left.begin(found)

    def remember(self, besides: Iterable[tuple[str, Any]] = ()) -> Remembered:
        """Return what puts everything back as it is now. `besides`: variables of functions that are under way since the loop began."""
        others = [thing for name, thing in besides if self._reach.thing(name) is None]

        def found() -> Iterator[tuple[Any, Slot, Any]]:
            yield from ((self._reach.thing(name), slot, value) for (name, slot), value in self._parts())
            yield from ((thing, slot, value) for thing in others for slot, value in parts(thing))

        return Remembered(found, self._token, lambda thing: self._reach.name_of(thing) is not None)

    def filled(self) -> dict[Key, Any]:
        """Return, by token, what was unset when the round began and is not any more."""
        found = [(k, v) for k, v in self._parts() if not has_a_place(v)]
        now = {k: self._token(v, k[1]) for k, v in found}
        return {
            k: token
            for k, token in now.items()
            if (k in self._unset and self._before[k] != token) or (k not in self._before and k[1][0] in REMOVABLE)
        }

    def unset(self, filled: Iterable[Key]) -> None:
        """Make this as it was when the round began."""
        for key in filled:
            thing = self._reach.thing(key[0])
            if thing is not None and (key in self._unset or may_be_unset(thing, key[1], None)):
                put(thing, key[1], self._unset.get(key, DELETED))

    def filled_again(self, filled: dict[Key, Any]) -> None:
        """Another sub-task has filled it: what is the same depends on no batch, and is given to those who join, who would fill it later."""
        now = dict(self._parts())
        same = {
            k: token is not None and not isinstance(token, At) and k in now and self._token(now[k], k[1]) == token
            for k, token in filled.items()
        }
        others = {k[0] for k, is_same in same.items() if not is_same}
        # that it is filled is told only along with what
        self._alike = {k: filled[k] for k, s in same.items() if s and (type(now[k]) not in PLAIN or k[0] not in others)}

    def words(self, keys: Iterable[Key]) -> list[str]:
        """Return the names of what is in reach, for messages."""
        return sorted(set(map(_words, keys)))

    def end_late_round(self) -> None:
        """End a round that was begun, but is none of the first."""
        self._before, self._unset = {}, {}

    def end_round(self) -> None:
        """Leave alone from now on what has changed in the round."""
        self.refresh()
        now = self._now()
        changed = [key for key in {**self._before, **now} if self._before.get(key) != now.get(key)]
        self._num_rounds += 1
        self._left_alone.update(k for k in changed if k not in self._alike or self._alike[k] != now.get(k))
        self._before, self._unset, self._after = {}, {}, {key: now.get(key) for key in changed}
        walked = self._reach.walked.items()
        self._with_gradients.update(
            n for n, t in walked if isinstance(t, torch.Tensor) and t.is_leaf and t.grad is not None
        )

    def trained_by_hand(self) -> list[str]:
        """Return the names of tensors that got gradients in sub-tasks, which nobody merges, and that the loop has changed since."""
        names = [n for n in sorted(self._with_gradients) if (n, ("all", None)) not in self._left_alone]
        found = [(n, self._reach.thing(n)) for n in names]
        return [
            n.partition(": ")[2] or n
            for n, t in found
            if t is not None and self._token(t, ("all", None)) != self._first.get((n, ("all", None)))
        ]

    def end_step(self, step: int) -> None:
        """The step of that round ends: what the loop has written over since is its own (`loss = step.merged["loss"]`)."""
        self.refresh()
        if self._after:
            now = self._now()
            self._left_alone -= {key for key, token in self._after.items() if now.get(key) != token}
            self._after = {}
        self.left.end_step(step)

    def changed_in_round(self) -> list[str]:
        """Return the names of what has changed since the round began, for messages."""
        now = self._now()
        return sorted({_words(key) for key in {**self._before, **now} if self._before.get(key) != now.get(key)})

    def find_iterators(self) -> None:
        """Keep where iterators are, at the first step's end: those that were there when the loop began as they were then."""
        for key, value in self._parts():
            now = self._token(value, key[1])
            if isinstance(now, At) and key not in self._left_alone:
                self._iterators.keep(key, value, now, self._first.get(key))

    def carried_on(self) -> Iterator[str]:
        """Yield the names of iterators that have gone on since: nobody can be given those."""
        return (_words(key) for key in self._iterators.gone_on() if key not in self._left_alone)

    def changed(self, inside: Callable[[Any], str | None] = lambda _: None) -> bytes:
        """Return what the loop has changed so far, and what rounds have, as bytes. `inside`: names what lies in tracked optimizers."""
        self._inside = inside
        present = ((key, value) for key, value in self._parts() if key not in self._left_alone)
        now: dict[Key, Any] = {key: value for key, value in present if not self._is_cached(key)}
        tokens = {key: self._token(value, key[1]) for key, value in now.items()}
        changed = {
            k: v
            for k, v in now.items()
            if tokens[k] is not None and tokens[k] != self._first.get(k) and not isinstance(tokens[k], At)
        }
        # keys and attributes; a variable that has lost its value is of no use any more
        gone = [k for k in self._first if k not in now and k not in self._left_alone and k[1][0] in REMOVABLE]
        gone = [k for k in gone if (k[0], ("all", None)) not in now]
        changed.update(dict.fromkeys(gone, DELETED))
        made = dict(self._made_before({k: v for k, v in now.items() if k not in changed}))
        if not changed and not made and not self._num_rounds:
            return b""
        found = self._dump(changed, made)
        # a secret is each trainer's own, from its environment: it is given to nobody, and not stored with a checkpoint
        return self._dump(self._without_secrets(changed), {}) if holds_secret(found) else found

    def _is_cached(self, key: Key) -> bool:
        """Whether it is in a dict that rounds add to, by the number of a sample say, and came there since the loop began."""
        name, (how, part) = key
        if (name, ("order", None)) not in self._left_alone:
            return False
        if how == "all":
            return not all(type(each) is str for each in self._reach.thing(name) or ())
        return how == "key" and type(part) is not str and key not in self._first

    def _made_before(self, unchanged: dict[Key, Any]) -> Iterator[tuple[Key, Any]]:
        """Yield what is given to others as it was when the loop began."""
        room = MOST_IN_ALL
        for key, value in unchanged.items():
            thing = self._reach.thing(key[0]) if key[1][0] == "all" else None
            if is_made_before(thing) and size_of(thing) <= room:
                room -= size_of(thing)
                yield key, value

    @cached_property
    def _maker(self) -> Any:
        """Return what makes things before the loop: the same code of the same config makes the same."""
        of_config = [token for (_, slot), token in self._first.items() if slot == ("attribute", "config")]
        return code_of(self._reach.named()), of_config

    def _without_secrets(self, changed: dict[Key, Any]) -> dict[Key, Any]:
        return {k: v for k, v in changed.items() if not holds_secret(self._dump({k: v}, {}))}

    def _name_of(self, thing: Any) -> str | None:
        return self._reach.name_of(thing) or self._inside(thing)

    def _dump(self, changed: dict[Key, Any], made: dict[Key, Any]) -> bytes:
        # a container's own content is in a copy, so that it is not told by the container's name
        told = {k: _untold(k, v) for k, v in changed.items()}
        rest = {k: _untold(k, v) for k, v in made.items()}, self._maker
        base_of = self._reach.bases()
        try:
            return dump((self._num_rounds, self._left_alone, told, *rest), self._name_of, base_of, self._reach.name_at)
        except Exception:  # noqa: BLE001  the edge to the user's objects: leave out those that cannot be pickled
            told = {k: v for k, v in told.items() if self._is_told(v)}
            return dump((self._num_rounds, self._left_alone, told, *rest), self._name_of, base_of, self._reach.name_at)

    def _is_told(self, value: Any) -> bool:
        try:
            dump(value, self._name_of)
        except Exception:  # noqa: BLE001  as above
            return False
        return True

    def restore(self, changed: bytes | None, inside: Callable[[str], Any] = lambda _: None) -> None:
        """Give everything the values that it has elsewhere. `inside`: gives what lies in tracked optimizers by its name."""
        if not changed:
            return

        def thing_of(name: str) -> Any:
            return inside(name) if is_inside(name) else self._reach.thing(name)

        told, made, maker = load(changed, thing_of), {}, None
        # a checkpoint of an earlier version has nothing of rounds, or of what was made before
        if isinstance(told, tuple):
            self._num_rounds, left_alone, told, *rest = told
            self._left_alone.clear()
            self._left_alone.update(left_alone)
            made, maker = rest or ({}, None)
        if made and maker == self._maker:
            told = {**{k: v for k, v in made.items() if self._differs(k, v)}, **told}
        for (name, slot), value in told.items():
            thing = self._reach.thing(name)
            if thing is not None:
                put(thing, slot, value)

    def _differs(self, key: Key, value: Any) -> bool:
        """Whether a thing was made otherwise here than elsewhere."""
        return key in self._first and self._token(value, key[1]) != self._first[key]


# In how many rounds to see what the objects' own code changes.
_ROUNDS_LOOKED_AT = 3
# Lists of more values than this, of other kinds than numbers and texts, are compared by which values they hold.
_MANY = 4096
_UNCHANGING = PLAIN | {tuple, frozenset}


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


def _own(thing: Any) -> Iterable[tuple[Slot, Any]]:
    """Yield what of a tracked object is looked at."""
    if isinstance(thing, nn.Module):
        yield from (part for part in parts(thing) if part[0][0] != "buffer" and part[0][1] != "training")
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
