"""How long the run is: a number of steps, or of epochs of the first dataset, until it is stopped."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from surefoot.target import Target

__all__ = ["Length"]


class Length:
    """Its `values` are part of the tracked state: a trainer that joins, or goes on from a checkpoint, has them from there."""

    def __init__(
        self, batch_size: int, end_after: int | Callable[[int, int], bool] | None, target: Target | None = None
    ) -> None:
        self._batch_size, self._end_after = batch_size, end_after
        #: what ends the run before its last step; None: nothing
        self.target = target
        self._num_steps: int | None = None
        self._num_epochs: int | None = None
        # epoch_length: samples an epoch, 0 until the first inner loop; stopped: whether the run was; logged: outside of rounds, last
        self.values: dict[str, Any] = {"epoch_length": 0, "stopped": False, "logged": {}}
        if target is not None:
            # the target that was met: a run that goes on from this state with another one is not over
            self.values["met"] = ""

    def ask_for(self, num_steps: int | None, num_epochs: int | None) -> None:
        """Take what the user asks for: one of the two."""
        self._num_steps, self._num_epochs = num_steps, num_epochs

    @property
    def num_steps(self) -> int | None:
        """How many steps the run has; None while it is not known how many samples an epoch has."""
        if self._num_epochs is None:
            return self._num_steps
        length = int(self.values["epoch_length"])
        if not length and self._num_epochs:
            return None
        return -(-self._num_epochs * length // self._batch_size)

    def is_over(self, step: int) -> bool:
        """Whether no step of this number is to be made."""
        if self.values["stopped"] or self._is_met or (self.num_steps is not None and step >= self.num_steps):
            return True
        if callable(self._end_after):
            return self._end_after(step, int(self.values["epoch_length"]))
        return self._end_after is not None and step >= self._end_after

    @property
    def ended_early(self) -> str:
        """What has ended training before its last step; nothing where that was made."""
        if self._is_met:
            return f"the target {self.target} was met"
        return "the training code ended it" if self.values["stopped"] else ""

    @property
    def _is_met(self) -> bool:
        return self.target is not None and self.values.get("met") == str(self.target)

    def look_at(self, values: Mapping[str, float]) -> None:
        """A step has come to these merged values: if they meet the target, it is the last."""
        if self.target is not None and self.target.met(values):
            self.values["met"] = str(self.target)

    def learn(self, epoch_length: int) -> bool:
        """Take note of how many samples an epoch of the first dataset has. Returns whether that was news."""
        if self.values["epoch_length"]:
            return False
        self.values["epoch_length"] = epoch_length
        return True

    def epoch(self, step: int) -> int:
        """Return the epoch that the step's first sample is of; 0 before anything is known."""
        length = int(self.values["epoch_length"])
        return step * self._batch_size // length if length else 0

    def ends_epoch(self, step: int) -> bool | None:
        """Whether the step's batch has the last sample of an epoch, None while that is not known."""
        return self.epoch(step + 1) > self.epoch(step) if self.values["epoch_length"] else None
