"""Gradients between steps, where they are state: a merge that nobody has used yet, or one that more is added to."""

from __future__ import annotations

from typing import Any

from surefoot_actors.engine.state.gradient_use import Gradients
from surefoot_actors.engine.state.survey import Saved, Survey, TensorOf

__all__ = ["TrackedGradients"]


class TrackedGradients:
    """What is in `.grad` of the tracked parameters."""

    order = 5

    def __init__(self, name: str, gradients: Gradients) -> None:
        self.name = name
        self._gradients = gradients

    def survey(self, survey: Survey) -> None:
        if not self._gradients.is_state:
            survey.objects[self.name] = None
            return
        grads = [(name, survey.number(f"{name}.grad", grad)) for name, grad in self._gradients.present()]
        survey.objects[self.name] = (self._gradients.flags(), grads)

    def check(self, tree: Any, saved: Saved) -> None:
        """They are of the parameters' shapes, which are checked."""

    def restore(self, tree: Any, tensor: TensorOf) -> None:
        flags, grads = tree if tree is not None else ((False, False, None), [])
        self._gradients.restore(flags, {name: tensor(number, None) for name, number in grads})
