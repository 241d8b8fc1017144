"""Names for what lies in optimizers and may have been made since the loop began: tensors and dicts of their states, groups that were added.

Code keeps those too, in a snapshot or a variable, and goes on to change one by the other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch

from surefoot_actors.engine.state.survey import Survey

__all__ = ["Inside", "is_inside", "names_inside"]

_MARK = "\0"


def is_inside(name: str) -> bool:
    return name.startswith(_MARK)


def names_inside(optimizers: Mapping[str, torch.optim.Optimizer], survey: Survey) -> Callable[[Any], str | None]:
    """Return what gives such a thing its name. `survey`: of the state as it is now."""
    states = tuple(f"{name}.state." for name in optimizers)
    dicts: dict[int, tuple[Any, str]] = {}

    def name_of(thing: Any) -> str | None:
        if isinstance(thing, torch.Tensor):
            number = survey.known(thing)
            in_state = number is not None and survey.entries[number].name.startswith(states)
            return f"{_MARK}tensor{_MARK}{number}" if in_state else None
        if not isinstance(thing, dict):
            return None
        if not dicts:
            dicts.update(
                {id(d): (d, way) for name, optimizer in optimizers.items() for way, d in _dicts(name, optimizer)}
            )
        known = dicts.get(id(thing))
        return known[1] if known is not None else None

    return name_of


class Inside:
    """What has such a name in a run that is restored."""

    def __init__(
        self, optimizers: Mapping[str, torch.optim.Optimizer], tensor: Callable[[int, None], torch.Tensor]
    ) -> None:
        """`tensor`: gives a tensor of the saved state by its number."""
        self._optimizers, self._tensor = optimizers, tensor
        # by name, once the optimizers are restored
        self._dicts: dict[str, Any] | None = None
        #: whether a dict was asked for before it was there
        self.lacks = False

    def restored(self) -> None:
        """The optimizers are restored."""
        self._dicts = {
            way: held for name, optimizer in self._optimizers.items() for way, held in _dicts(name, optimizer)
        }

    def thing(self, name: str) -> Any:
        _, kind, number, *_ = name.split(_MARK)
        if kind == "tensor":
            return self._tensor(int(number), None)
        if self._dicts is None:
            self.lacks = True
            return {}
        return self._dicts.get(name)


def _dicts(name: str, optimizer: torch.optim.Optimizer) -> Iterator[tuple[str, Any]]:
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for i, group in enumerate(optimizer.param_groups):
        yield f"{_MARK}group{_MARK}{i}{_MARK}{name}", group
    for i, parameter in enumerate(parameters):
        if parameter in optimizer.state:
            yield f"{_MARK}state{_MARK}{i}{_MARK}{name}", optimizer.state[parameter]
