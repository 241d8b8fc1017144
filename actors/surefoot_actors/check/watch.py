"""Watches what a train function holds: objects with state that nobody tracks, and plain values carried from turn to turn.

It reads the local variables of the user's frames on the stack and the globals of the user's modules, and never changes any.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import count
from types import FrameType
from typing import Any

import numpy as np
import torch
from torch import nn

from surefoot_actors.check.pins import UserCode
from surefoot_actors.engine.state.digest import canonical, tensor_digests
from surefoot_actors.engine.state.survey import Survey

__all__ = ["Epoch", "Place", "Watch"]

# How deep objects, lists and dicts are looked into, and how many of a container's items.
_DEPTH = 3
_ITEMS = 64
_PLAIN = (int, float, complex, str, bytes, bool, type(None), count)
_MOST_BYTES = 1 << 22


@dataclass(frozen=True, slots=True)
class Place:
    """Where a value is found: "ema", "self.calls"."""

    name: str
    # of the source that holds the name
    file: str
    # a local variable that may be made anew each turn; False for globals and attributes, which stay
    local: bool
    # the line that the function with the name begins at; 0: anywhere in the file
    begins: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Epoch:
    """How long an epoch is, of the dataset that the last inner loop was over; zeros before the first."""

    # in samples, and in steps that it takes part in
    length: int = 0
    steps: int = 0


@dataclass
class Watch:
    """Everything seen from the train function, seen again and again."""

    code: UserCode
    tracked: Mapping[str, Any] = field(default_factory=dict)
    epoch: Epoch = Epoch()
    # digests of stateful objects that are not tracked, as first seen
    _first: dict[str, bytes] = field(default_factory=dict)
    _values: dict[Place, tuple[int, bytes]] = field(default_factory=dict)

    def untracked_that_changed(self) -> list[tuple[Place, str]]:
        """Return objects with state_dict that nobody tracks and whose state is not what it first was, with their type's name."""
        found = []
        for place, thing in self._stateful():
            digest = _state_digest(thing)
            if self._first.setdefault(place.name, digest) != digest:
                found.append((place, type(thing).__name__))
        return found

    def changed_values(self) -> list[tuple[Place, bool]]:
        """Return the plain values that are others than at the last call; True: changed in place, so certainly carried on."""
        before, now = self._values, {place: _value(thing) for place, thing in self._plain_things()}
        self._values = now
        return [
            (place, known[0] == value[0] and value[0] != 0)
            for place, value in now.items()
            if (known := before.get(place)) is not None and known[1] != value[1]
        ]

    def modules(self) -> list[nn.Module]:
        """Return the modules that are tracked."""
        return [thing for thing in self.tracked.values() if isinstance(thing, nn.Module)]

    # ---- walking

    def _roots(self) -> Iterator[tuple[Place, Any]]:
        frame: FrameType | None = sys._getframe(1)
        while frame is not None:
            file = frame.f_code.co_filename
            if file in self.code:
                for name, value in frame.f_locals.items():
                    yield Place(name, file, frame.f_code.co_name != "<module>", frame.f_code.co_firstlineno), value
            frame = frame.f_back
        for module in tuple(sys.modules.values()):
            file = getattr(module, "__file__", None) or ""
            if file in self.code:
                for name, value in vars(module).items():
                    if not name.startswith("__"):
                        yield Place(name, file, False), value

    def _walk(self) -> Iterator[tuple[Place, Any]]:
        """Yield everything in sight once, outermost names first."""
        seen: set[int] = {id(thing) for thing in self.tracked.values() if not isinstance(thing, nn.Module)}
        level = list(self._roots())
        for _ in range(_DEPTH):
            below: list[tuple[Place, Any]] = []
            for place, thing in level:
                if isinstance(thing, _PLAIN):
                    yield place, thing
                elif id(thing) not in seen:
                    seen.add(id(thing))
                    yield place, thing
                    below += self._inside(place, thing)
            level = below

    def _inside(self, place: Place, thing: Any) -> Iterator[tuple[Place, Any]]:
        if isinstance(thing, dict):
            items = ((f"{place.name}[{k!r}]", v) for k, v in list(thing.items())[:_ITEMS])
        elif isinstance(thing, (list, tuple)):
            items = ((f"{place.name}[{i}]", v) for i, v in enumerate(thing[:_ITEMS]))
        elif isinstance(thing, nn.Module) or self._is_users(thing):
            hidden = ("_parameters", "_buffers", "training") if isinstance(thing, nn.Module) else ()
            inside = getattr(thing, "__dict__", {})
            items = (
                (f"{place.name}.{k}", v) for k, v in list(inside.items()) if k not in hidden and not k.startswith("__")
            )
        else:
            return
        for name, value in items:
            yield Place(name, place.file, False, place.begins), value

    def _is_users(self, thing: Any) -> bool:
        module = sys.modules.get(getattr(thing if isinstance(thing, type) else type(thing), "__module__", "") or "")
        owner = sys.modules.get(getattr(thing, "__module__", "") or "") if callable(thing) else module
        return any((getattr(m, "__file__", None) or "") in self.code for m in (module, owner) if m is not None)

    def _stateful(self) -> Iterator[tuple[Place, Any]]:
        covered = self._tracked_tensors()
        for place, thing in self._walk():
            if isinstance(thing, type) or not _has_state(thing):
                continue
            if isinstance(thing, nn.Module) and all(id(t) in covered for t in _tensors(thing)):
                continue
            yield place, thing

    def _tracked_tensors(self) -> set[int]:
        return {id(t) for module in self.modules() for t in _tensors(module)}

    def _plain_things(self) -> Iterator[tuple[Place, Any]]:
        covered = self._tracked_tensors()
        for place, thing in self._walk():
            if isinstance(
                thing, (*_PLAIN, random.Random, np.random.Generator, np.random.RandomState, torch.Generator)
            ) or (
                isinstance(thing, (torch.Tensor, np.ndarray))
                and thing.nbytes <= _MOST_BYTES
                and id(thing) not in covered
            ):
                yield place, thing
            elif isinstance(thing, (list, dict, set)) or type(thing).__module__ == "collections":
                yield place, len(thing) if hasattr(thing, "__len__") else None


def _has_state(thing: Any) -> bool:
    return callable(getattr(thing, "state_dict", None)) and callable(getattr(thing, "load_state_dict", None))


def _tensors(module: nn.Module) -> Iterator[torch.Tensor]:
    yield from module.parameters()
    yield from module.buffers()


def _state_digest(thing: Any) -> bytes:
    survey = Survey()
    survey.objects["it"] = survey.tree("it", thing.state_dict())
    with torch.no_grad():
        return b"".join(tensor_digests(survey).values())


def _value(thing: Any) -> tuple[int, bytes]:
    """Return what tells a changed value: the identity of a random generator, which changes in place (else 0), and a digest."""
    if isinstance(thing, (*_PLAIN, random.SystemRandom)):
        return 0, repr(thing)[:1000].encode()
    if isinstance(thing, torch.Tensor):
        return 0, canonical(thing.detach().cpu().contiguous().view(-1).float().numpy())
    if isinstance(thing, np.ndarray):
        return 0, canonical(thing) if thing.dtype != object else b""
    if isinstance(thing, torch.Generator):
        return id(thing), thing.get_state().numpy().tobytes()
    state = thing.getstate() if isinstance(thing, random.Random) else _numpy_state(thing)
    return id(thing), repr(state).encode()


def _numpy_state(thing: Any) -> Any:
    return thing.bit_generator.state if isinstance(thing, np.random.Generator) else thing.get_state()
