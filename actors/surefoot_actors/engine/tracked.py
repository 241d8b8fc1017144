"""The tracked objects: what they are, what of them is in the vector, and (as StateOwner) their whole state."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from surefoot.errors import ContractError
from surefoot_actors.engine import stripes
from surefoot_actors.engine.gradients import Gradients
from surefoot_actors.engine.image import SavedState, read_image, write_image
from surefoot_actors.engine.survey import Survey, TrackedModule, TrackedObject, TrackedOptimizer, TrackedOther
from surefoot_actors.engine.types import StateImage

__all__ = ["GRADIENTS", "Tracked"]

# The name of what is in `.grad` at a step boundary, where that is state; no argument of `track` can be named so.
GRADIENTS = "(gradients)"


class Tracked:
    """Everything that training changes, in tracking order. Implements `ports.StateOwner`.

    The structure (which modules, parameters and buffers there are) is taken once, when tracking; the values are read when asked for.
    """

    def __init__(self, objects: dict[str, Any], device: torch.device) -> None:
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
        self._parameter_names = dict(_parameter_names(self.modules, self.optimizers))
        #: follows merges to the optimizers that use them
        self.gradients = Gradients(self.parameters(), self.optimizers)
        # modules first, so that an optimizer's restore finds its parameters in place; schedulers and the like last
        self._objects = sorted([self._wrap(n, o) for n, o in objects.items()], key=lambda tracked: tracked.order)

    def _wrap(self, name: str, thing: Any) -> TrackedObject:
        if isinstance(thing, nn.Module):
            return TrackedModule(name, thing)
        if isinstance(thing, torch.optim.Optimizer):
            if isinstance(thing, torch.optim.LBFGS):
                raise ContractError(
                    f"{name} is LBFGS, which evaluates a closure several times a step; its gradients cannot be merged"
                )
            return TrackedOptimizer(name, thing, self._parameter_names)
        if callable(getattr(thing, "state_dict", None)) and callable(getattr(thing, "load_state_dict", None)):
            return TrackedOther(name, thing)
        raise ContractError(
            f"run.track({name}=...) was given a {type(thing).__name__}, which has no state_dict and load_state_dict; "
            f"track modules, optimizers, schedulers and the like, and keep other values in run.config"
        )

    def parameters(self) -> list[tuple[str, torch.Tensor]]:
        """Return what has gradients: parameters of modules and of optimizers, in tracking order, tied ones once.

        The averages of an AveragedModel require a gradient but never get one: they are state, not part of the vector.
        """
        averages = {id(p) for m in self.modules.values() if isinstance(m, AveragedModel) for p in m.parameters()}
        found: dict[int, tuple[str, torch.Tensor]] = {}
        for name, parameter in _all_parameters(self.modules, self.optimizers):
            if id(parameter) not in averages:
                found.setdefault(id(parameter), (name, parameter))
        return list(found.values())

    def survey(self) -> Survey:
        """List every tensor and plain value of the state, as it is now."""
        survey = Survey()
        for tracked in self._objects:
            tracked.survey(survey)
        if self.gradients.is_state:
            grads = [(name, survey.number(f"{name}.grad", grad)) for name, grad in self.gradients.present()]
            survey.objects[GRADIENTS] = (self.gradients.flags(), grads)
        return survey

    @torch.no_grad()
    def capture(self) -> StateImage:
        return write_image(self.survey())

    @torch.no_grad()
    def restore(self, image: StateImage) -> None:
        saved = read_image(image, self._device)
        self._check_names(saved)
        for tracked in self._objects:
            tracked.restore(saved.objects[tracked.name], saved.tensor)
        flags, grads = saved.objects.get(GRADIENTS, ((False, False, None), []))
        self.gradients.restore(flags, {name: saved.tensor(number, None) for name, number in grads})

    @torch.no_grad()
    def check_image(self, image: StateImage) -> None:
        """Raise ContractError where the tracked objects are not those of the image, naming what differs. Changes nothing."""
        saved = read_image(image, self._device)
        self._check_names(saved)
        for tracked in self._objects:
            tracked.check(saved.objects[tracked.name], saved)

    def _check_names(self, saved: SavedState) -> None:
        mine, theirs = [t.name for t in self._objects], [name for name in saved.objects if name != GRADIENTS]
        if mine != theirs:
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
        return stripes.digest(self.survey(), index)

    def stripe_names(self, index: int) -> list[str]:
        return stripes.names(self.survey(), index)

    @torch.no_grad()
    def tensor_digests(self) -> dict[str, bytes]:
        return stripes.tensor_digests(self.survey())


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


def _parameter_names(
    modules: dict[str, nn.Module], optimizers: dict[str, torch.optim.Optimizer]
) -> Iterator[tuple[int, str]]:
    seen: set[int] = set()
    for name, parameter in _all_parameters(modules, optimizers):
        if id(parameter) not in seen:
            seen.add(id(parameter))
            yield id(parameter), name


def _check_distinct(objects: dict[str, Any]) -> None:
    names: dict[int, str] = {}
    for name, thing in objects.items():
        if id(thing) in names:
            raise ContractError(
                f"run.track() was given the same object twice, as {names[id(thing)]} and as {name}; name it once"
            )
        names[id(thing)] = name
