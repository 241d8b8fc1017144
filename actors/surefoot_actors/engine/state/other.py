"""Tracked objects that are neither modules nor optimizers: whatever has state_dict and load_state_dict, and plain dicts."""

from __future__ import annotations

import copy
from typing import Any

from surefoot.errors import ContractError
from surefoot_actors.engine.state.survey import Saved, Survey, TensorOf, untree

__all__ = ["TrackedDict", "TrackedOther"]


class TrackedOther:
    """Schedulers, GradScaler, averages, wrappers of optimizers, objects of the user's own."""

    order = 2

    def __init__(self, name: str, thing: Any) -> None:
        self.name = name
        self._thing = thing

    def survey(self, survey: Survey) -> None:
        survey.objects[self.name] = survey.tree(self.name, self._thing.state_dict(), by_place=True)

    def check(self, tree: Any, saved: Saved) -> None:
        before = copy.deepcopy(self._thing.state_dict())
        try:
            self._thing.load_state_dict(untree(tree, saved.tensor))
        except Exception as error:  # the edge to the user's object: only it knows what it can load
            raise ContractError(f"{self.name} does not load what was saved of it: {error!r}") from error
        finally:
            self._thing.load_state_dict(before)

    def restore(self, tree: Any, tensor: TensorOf) -> None:
        self._thing.load_state_dict(untree(tree, tensor))


class TrackedDict:
    """A dict of the user's own: the best loss so far, a counter of bad steps. It is overwritten in place."""

    order = 4

    def __init__(self, name: str, values: dict[Any, Any]) -> None:
        self.name = name
        self._values = values

    def survey(self, survey: Survey) -> None:
        survey.objects[self.name] = survey.tree(self.name, dict(self._values), by_place=True)

    def check(self, tree: Any, saved: Saved) -> None:
        """Every dict can be overwritten."""

    def restore(self, tree: Any, tensor: TensorOf) -> None:
        values = untree(tree, tensor, self._values)
        self._values.clear()
        self._values.update(values)
