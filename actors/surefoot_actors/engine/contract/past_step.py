"""A step that is over, as a trainer is given it that was not there: code keeps the best one, or all in a list."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NoReturn

from surefoot import contract
from surefoot.errors import ContractError
from surefoot_actors.user_code.lines import user_line

__all__ = ["PastStep"]


class PastStep(contract.Step):
    """What a step has come to; nothing can be computed in it any more."""

    #: it goes along to joiners
    is_told = True

    def __init__(
        self, number: int, epoch: int, ends_epoch: bool | None, merged: dict[str, float], gathered: dict[str, Any]
    ) -> None:
        self.number = number
        self._epoch, self._ends_epoch = epoch, bool(ends_epoch)
        self._merged, self._gathered = merged, gathered

    @property
    def merged(self) -> Mapping[str, float]:
        return MappingProxyType(self._merged)

    @property
    def gathered(self) -> Mapping[str, Any]:
        return MappingProxyType(self._gathered)

    @property
    def epoch(self) -> int:
        return self._epoch

    @property
    def ends_epoch(self) -> bool:
        return self._ends_epoch

    def every(self, n: int) -> bool:
        return (self.number + 1) % n == 0

    def batches(self, dataset: Any, **_: Any) -> NoReturn:
        self._is_over("batches")

    def evaluate(self, dataset: Any, **_: Any) -> NoReturn:
        self._is_over("evaluate")

    def log(self, **_: Any) -> NoReturn:
        self._is_over("log")

    def gather(self, **_: Any) -> NoReturn:
        self._is_over("gather")

    def weigh(self, weight: float) -> NoReturn:
        self._is_over("weigh")

    def discard_gradients(self) -> NoReturn:
        self._is_over("discard_gradients")

    def _is_over(self, what: str) -> NoReturn:
        raise ContractError(
            f"step {self.number} is used at {user_line(3)} by step.{what}(), but it is over; use the step of the present turn"
        )
