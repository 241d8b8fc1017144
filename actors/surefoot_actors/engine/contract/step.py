"""The Step that users see."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any

from surefoot import contract
from surefoot.errors import ContractError
from surefoot_actors.engine.contract.context import RoundContext
from surefoot_actors.engine.contract.evaluation import EvaluationRound
from surefoot_actors.engine.contract.loop import Loop
from surefoot_actors.engine.contract.past_step import PastStep
from surefoot_actors.engine.contract.rounds import TrainingRound
from surefoot_actors.engine.contract.step_record import StepRecord
from surefoot_actors.engine.contract.sub_task import SubTask
from surefoot_actors.engine.data.block_order import check_order
from surefoot_actors.user_code.lines import user_line

__all__ = ["TrainStep"]


class TrainStep(contract.Step):
    """One step of the loop. What it has come to is in its record."""

    #: it goes along to joiners, as what it has come to
    is_told = True

    def __init__(self, context: RoundContext, loop: Loop, record: StepRecord) -> None:
        self.number = record.number
        self._context, self._loop, self._record = context, loop, record

    def __reduce__(self) -> tuple[Any, ...]:
        length, record = self._loop.length, self._record
        told = (length.epoch(self.number), length.ends_epoch(self.number), dict(record.values), dict(record.gathered))
        return PastStep, (self.number, *told)

    def batches(
        self,
        dataset: Any,
        *,
        collate: Callable[[list[Any]], Any] | None = None,
        sampler: Any = None,
        shuffle: str = "samples",
        block_size: Any = None,
        accumulate: bool = False,
    ) -> Iterator[Any]:
        self._loop.check_current(self._record)
        line = user_line()
        check_order(sampler, shuffle, block_size, line)
        whole = self._context.training_partition
        partition = whole.by_blocks(dataset, block_size, line) if shuffle == "blocks" else whole.ordered(sampler, line)
        return TrainingRound(self._context, self._loop, self.number, dataset, collate, partition, accumulate=accumulate)

    def evaluate(self, dataset: Any, *, collate: Callable[[list[Any]], Any] | None = None) -> Iterator[Any]:
        self._loop.check_current(self._record)
        partition = self._context.evaluation_partition
        return EvaluationRound(self._context, self._loop, self.number, dataset, collate, partition)

    def log(self, **values: Any) -> None:
        if self._loop.open is not None or self._loop.record is not self._record:
            self._sub_task("log").log(values)
        else:
            self._record.log(values, user_line())

    def gather(self, **tensors: Any) -> None:
        self._sub_task("gather").gather(tensors)

    @property
    def gathered(self) -> Mapping[str, Any]:
        return MappingProxyType(self._record.gathered)

    @property
    def epoch(self) -> int:
        return self._loop.length.epoch(self.number)

    @property
    def ends_epoch(self) -> bool:
        ends = self._loop.length.ends_epoch(self.number)
        if ends is None:
            raise ContractError(
                f"step.ends_epoch at {user_line()} is not known before the first inner loop: an epoch is one of the dataset that "
                f"step.batches() is given first"
            )
        return ends

    def weigh(self, weight: float) -> None:
        self._sub_task("weigh").weigh(weight)

    def discard_gradients(self) -> None:
        self._loop.check_no_round(f"step.discard_gradients() is called at {user_line()}")
        self._context.tracked.gradients.discard()

    def every(self, n: int) -> bool:
        if n < 1:
            raise ContractError(f"step.every({n}) at {user_line()}: give a number of at least 1")
        return (self.number + 1) % n == 0

    @property
    def merged(self) -> Mapping[str, float]:
        return MappingProxyType(self._record.values)

    def _sub_task(self, what: str) -> SubTask:
        round_ = self._loop.open
        sub_task = round_.sub_task if round_ is not None and self._loop.record is self._record else None
        if sub_task is None:
            raise ContractError(
                f"step.{what}() at {user_line(3)} is outside a sub-task: call it in the body of "
                f"`for batch in step.batches(...)` or `step.evaluate(...)`; after the loop, step.merged has the merged values"
            )
        return sub_task
