"""The tracked objects: what they are, what of them is in the vector, and (as StateOwner) their whole state."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from surefoot.errors import ContractError
from surefoot_actors.engine.state import digest as state_digest
from surefoot_actors.engine.state.attributes import Attributes
from surefoot_actors.engine.state.gradient_use import Gradients
from surefoot_actors.engine.state.gradients import TrackedGradients
from surefoot_actors.engine.state.image import SavedState, read_image, write_image
from surefoot_actors.engine.state.inside import Inside, names_inside
from surefoot_actors.engine.state.module import TrackedModule
from surefoot_actors.engine.state.objects import variables_in_sight
from surefoot_actors.engine.state.optimizer import TrackedOptimizer, inner_optimizers
from surefoot_actors.engine.state.other import TrackedDict, TrackedOther
from surefoot_actors.engine.state.structure import REFUSED
from surefoot_actors.engine.state.survey import Survey, TrackedObject
from surefoot_actors.engine.types import StateImage, StateTable
from surefoot_actors.engine.vector.memory import flat_bytes

__all__ = ["GRADIENTS", "Tracked"]

# No argument of `track` can be named so.
GRADIENTS = "(gradients)"

# Optimizers inside other objects are restored after those, whose own load_state_dict may cast what they hold.
_INNER = 3


class Tracked:
    """Everything that training changes, in tracking order. Implements `ports.StateOwner`.

    The structure (which modules, parameters and buffers there are) is taken when tracking, and once more when the loop begins; the
    values are read when asked for.
    """

    def __init__(self, objects: dict[str, Any], device: torch.device, own: dict[str, Any] | None = None) -> None:
        """`own`: values of the run itself that are part of its state, overwritten in place."""
        if not objects:
            raise ContractError(
                "run.track() was given nothing; name the model and the optimizer: run.track(model=..., optimizer=...)"
            )
        _check_distinct(objects)
        self._device = device
        #: what was given to `track`, as it is
        self.things = tuple(objects.values())
        self.modules = {n: o for n, o in objects.items() if isinstance(o, nn.Module)}
        self.optimizers = {n: o for n, o in objects.items() if isinstance(o, torch.optim.Optimizer)}
        self._inner = dict(_inner_of(objects, self.optimizers))
        self.optimizers |= self._inner
        self._given, self._own = objects, own if own is not None else {}
        self.attributes = Attributes()
        self._wrap_all()
        self._num_in_groups = self._count_in_groups()

    def _wrap_all(self) -> None:
        #: follows merges to the optimizers that use them
        self.gradients = Gradients(self.parameters(), self.optimizers)
        modules: list[TrackedObject] = [TrackedModule(n, o) for n, o in self.modules.items()]
        parameters = dict(_named_parameters(self.modules, self.optimizers))
        rest = [self._wrap(n, o, parameters) for n, o in self._given.items() if n not in self.modules]
        inner = [TrackedOptimizer(n, o, parameters, order=_INNER) for n, o in self._inner.items()]
        own: list[TrackedObject] = [
            TrackedGradients(GRADIENTS, self.gradients),
            TrackedDict(state_digest.RUN, self._own),
        ]
        # modules first, so that an optimizer's restore finds its parameters in place; schedulers and the like last
        self._objects: list[TrackedObject] = sorted([*modules, *rest, *inner, *own], key=lambda tracked: tracked.order)

    def _wrap(self, name: str, thing: Any, parameters: dict[str, torch.Tensor]) -> TrackedObject:
        if isinstance(thing, torch.optim.Optimizer):
            if isinstance(thing, torch.optim.LBFGS):
                raise ContractError(
                    f"{name} is LBFGS, which evaluates a closure several times a step; its gradients cannot be merged"
                )
            return TrackedOptimizer(name, thing, parameters)
        if isinstance(thing, dict):
            return TrackedDict(name, thing)
        if callable(getattr(thing, "state_dict", None)) and callable(getattr(thing, "load_state_dict", None)):
            return TrackedOther(name, thing)
        raise ContractError(
            f"run.track({name}=...) was given a {type(thing).__name__}, which has no state_dict and load_state_dict; "
            f"track modules, optimizers, schedulers and the like, and dicts of numbers and tensors for what else training changes"
        )

    def settle(self) -> None:
        """The loop begins: take modules and parameter groups as they are now."""
        for thing in self._given.values():
            if isinstance(thing, torch.amp.GradScaler) and thing.is_enabled() and thing._scale is None:
                # made in the first inner loop otherwise, where it would change from a double to a float
                thing._lazy_init_scale_growth_tracker(self._device)
        self._wrap_all()
        parts = [named for name, module in self.modules.items() for named in module.named_modules(prefix=name)]
        others = [(n, o) for n, o in self._given.items() if n not in self.modules]
        #: what the loop changes besides, which joiners are given too
        self.attributes = Attributes(
            tracked=[*parts, *others, *self._inner.items()],
            tensors=[(entry.name, entry.tensor) for entry in self.survey().entries],
            roots=variables_in_sight(),
        )
        self._num_in_groups = self._count_in_groups()

    def begin(self) -> None:
        """The loop asks for its first step: functions that are under way since, a generator around run.steps() say, are in sight too."""
        self.attributes.add(variables_in_sight())

    def _count_in_groups(self) -> int:
        return sum([o.num_parameters() for o in self._objects if isinstance(o, TrackedOptimizer)])

    def check_structure(self, where: str) -> None:
        """Raise ContractError where the structure changed since the loop began in a way that a joiner could not follow.

        A parameter group that is added, of tracked parameters, is followed. `where` says where in the user's code that is found.
        """
        for tracked in self._objects:
            if isinstance(tracked, TrackedModule) and (change := tracked.structure_change()):
                raise ContractError(_structure_changed(tracked.name, change, where))
        count = self._count_in_groups()
        if count != self._num_in_groups:
            self._num_in_groups = count
            for tracked in self._objects:
                if isinstance(tracked, TrackedOptimizer) and (strangers := tracked.strangers()):
                    raise ContractError(_strange_group(tracked.name, *strangers[0], where))

    def parameters(self) -> list[tuple[str, torch.Tensor]]:
        """Return what has gradients: parameters of modules and of optimizers, in tracking order, tied ones once.

        The averages of an AveragedModel require a gradient but never get one: they are state, not part of the vector.
        """
        averages = {id(p) for m in self.modules.values() if isinstance(m, AveragedModel) for p in m.parameters()}
        named = _named_parameters(self.modules, self.optimizers)
        return [(name, parameter) for name, parameter in named if id(parameter) not in averages]

    def survey(self) -> Survey:
        """List every tensor and plain value of the state, as it is now."""
        survey = Survey()
        for tracked in self._objects:
            tracked.survey(survey)
        survey.along = lambda: self.attributes.changed(names_inside(self.optimizers, survey))
        return survey

    @torch.no_grad()
    def capture(self) -> StateImage:
        survey = self.survey()
        image = write_image(survey)
        image.digests = tuple(state_digest.tensor_digests(survey).items())
        return image

    @torch.no_grad()
    def restore(self, image: StateImage) -> None:
        saved = read_image(image, self._device)
        self._check_names(saved)
        inside = Inside(self.optimizers, saved.tensor)
        self.attributes.restore(saved.along, inside.thing)
        for tracked in self._objects:
            if isinstance(tracked, TrackedOptimizer):
                tracked.hold()
        for tracked in self._objects:
            tracked.restore(saved.tree(tracked.name), saved.tensor)
        inside.restored()
        if inside.lacks:
            self.attributes.restore(saved.along, inside.thing)
        self._check_restored(saved)

    def _check_restored(self, saved: SavedState) -> None:
        """Raise ContractError where the state is not what was to be restored, tensor by tensor and value by value."""
        survey = self.survey()
        specs = survey.specs()
        differ = [
            spec.name
            for number, (spec, own, entry) in enumerate(zip(saved.specs, specs, survey.entries, strict=False))
            if (spec.name, spec.dtype, spec.shape, spec.stride) != (own.name, own.dtype, own.shape, own.stride)
            or not torch.equal(flat_bytes(saved.value(number)), flat_bytes(entry.tensor))
        ]
        differ += [
            state_digest.values_of(tracked.name)
            for tracked in self._objects
            if state_digest.canonical(saved.tree(tracked.name)) != state_digest.canonical(survey.objects[tracked.name])
        ]
        if differ or len(specs) != len(saved.specs):
            raise ContractError(_not_restored(differ or [f"{len(specs)} tensors, where {len(saved.specs)} were given"]))

    @torch.no_grad()
    def rehearse(self) -> None:
        """Raise ContractError where an object's own load_state_dict does not give back what its state_dict tells.

        A trainer that joins would find out only then. Tensors of modules and optimizers are not read: they are copied as they are.
        """
        for tracked in self._objects:
            if isinstance(tracked, TrackedOther | TrackedDict):
                survey = Survey()
                tracked.survey(survey)
                self._rehearse(tracked, survey)

    def _rehearse(self, tracked: TrackedObject, survey: Survey) -> None:
        before = state_digest.tensor_digests(survey)
        saved = read_image(write_image(survey), self._device)
        copies = SavedState(
            trees=saved.trees, specs=saved.specs, flats=[flat.clone() for flat in saved.flats], device=self._device
        )
        tracked.restore(copies.tree(tracked.name), copies.tensor)
        again = Survey()
        tracked.survey(again)
        after = state_digest.tensor_digests(again)
        if before != after:
            differ = sorted(k for k in before.keys() | after.keys() if before.get(k) != after.get(k))
            raise ContractError(_not_given_back(tracked.name, differ))

    @torch.no_grad()
    def check_image(self, image: StateImage) -> None:
        """Raise ContractError where the tracked objects are not those of the image, naming what differs. Changes nothing."""
        saved = read_image(image, self._device)
        self._check_names(saved)
        for tracked in self._objects:
            tracked.check(saved.tree(tracked.name), saved)

    def _check_names(self, saved: SavedState) -> None:
        mine, theirs = [t.name for t in self._objects], list(saved.trees)
        if mine != theirs:
            mine, theirs = ([n for n in names if not n.startswith("(")] for names in (mine, theirs))
            raise ContractError(
                f"this trainer tracks {mine}, the run tracks {theirs}; run.track() must get the same objects everywhere"
            )

    def models(self) -> dict[str, nn.Module]:
        """Return the tracked modules, by name."""
        return dict(self.modules)

    @torch.no_grad()
    def digest(self) -> bytes:
        return self.stripe_digest(-1)

    @torch.no_grad()
    def stripe_digest(self, index: int) -> bytes:
        return state_digest.digest(self.survey(), index)

    @torch.no_grad()
    def table(self, index: int) -> StateTable:
        survey = self.survey()
        buffers = {id(b) for module in self.modules.values() for b in module.buffers()}
        written = {entry.name for entry in survey.entries if id(entry.tensor) in buffers}
        wanted = {*state_digest.names(survey, index), *(state_digest.values_of(name) for name in survey.objects)}
        digests = {name: d for name, d in state_digest.tensor_digests(survey).items() if name in wanted}
        return StateTable(
            digests={name: d for name, d in digests.items() if name not in written},
            buffers={name: d for name, d in digests.items() if name in written},
        )

    @torch.no_grad()
    def tensor_digests(self) -> dict[str, bytes]:
        return state_digest.tensor_digests(self.survey())


def _all_parameters(
    modules: dict[str, nn.Module], optimizers: dict[str, torch.optim.Optimizer]
) -> Iterator[tuple[str, torch.Tensor]]:
    for name, module in modules.items():
        for path, parameter in module.named_parameters(prefix=name):
            yield path, parameter
    for name, optimizer in optimizers.items():
        for g, group in enumerate(optimizer.param_groups):
            for i, parameter in enumerate(group["params"]):
                yield f"{name}.param_groups.{g}.params.{i}", parameter


def _named_parameters(
    modules: dict[str, nn.Module], optimizers: dict[str, torch.optim.Optimizer]
) -> list[tuple[str, torch.Tensor]]:
    """Return every parameter once, under the first name it has."""
    found: dict[int, tuple[str, torch.Tensor]] = {}
    for name, parameter in _all_parameters(modules, optimizers):
        found.setdefault(id(parameter), (name, parameter))
    return list(found.values())


def _inner_of(
    objects: dict[str, Any], known: dict[str, torch.optim.Optimizer]
) -> list[tuple[str, torch.optim.Optimizer]]:
    """Return the optimizers inside the given objects, and inside those, that were not given themselves."""
    seen = {id(o) for o in known.values()}
    found: list[tuple[str, torch.optim.Optimizer]] = []
    waiting = [(n, o) for n, o in objects.items() if not isinstance(o, nn.Module | dict)]
    while waiting:
        for path, optimizer in inner_optimizers(*waiting.pop(0)):
            if id(optimizer) not in seen:
                seen.add(id(optimizer))
                found.append((path, optimizer))
                waiting.append((path, optimizer))
    return found


def _check_distinct(objects: dict[str, Any]) -> None:
    names: dict[int, str] = {}
    for name, thing in objects.items():
        if id(thing) in names:
            raise ContractError(
                f"run.track() was given the same object twice, as {names[id(thing)]} and as {name}; name it once"
            )
        names[id(thing)] = name


def _structure_changed(name: str, change: str, where: str) -> str:
    return f"the structure of {name} changed while training: {change} (found {where}). {REFUSED}"


def _strange_group(name: str, group: int, parameter: torch.Tensor, where: str) -> str:
    return (
        f"{name} was given a parameter of shape {tuple(parameter.shape)} in group {group} that is not tracked (found {where}): its "
        f"gradient would be merged with nobody's; name its module in run.track() before the training begins"
    )


def _not_given_back(name: str, differ: list[str]) -> str:
    return (
        f"{name}.load_state_dict() does not give back what {name}.state_dict() tells: {', '.join(differ[:4])} differ after it. A "
        f"trainer that joins, or goes on from a checkpoint, would go on with another state; mend these two methods"
    )


def _not_restored(differ: list[str]) -> str:
    more = f" and {len(differ) - 4} more" if len(differ) > 4 else ""
    return (
        f"the run's state was given to this trainer, and {', '.join(differ[:4])}{more} came out otherwise: either the tracked "
        f"objects are built otherwise here, or their load_state_dict does not give back what their state_dict told"
    )
