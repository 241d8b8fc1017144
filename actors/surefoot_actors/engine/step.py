"""The Step that users see."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from time import perf_counter, time
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import xxhash

from surefoot import contract
from surefoot.errors import ContractError
from surefoot.events import Circumstances, LedgerRow, Result
from surefoot_actors.engine.caller import user_line
from surefoot_actors.engine.evaluation import EvaluationRound
from surefoot_actors.engine.rounds import Round, TrainingRound
from surefoot_actors.engine.types import Merged
from surefoot_actors.engine.values import SubTask

if TYPE_CHECKING:
    from surefoot_actors.engine.run import TrainRun

__all__ = ["TrainStep"]


class TrainStep(contract.Step):
    """One step: its rounds so far, and what they merged to."""

    def __init__(self, run: TrainRun, number: int) -> None:
        self.number = number
        self._run = run
        self._began = perf_counter()
        self._digests: list[bytes] = []
        self._values: dict[str, float] = {}
        #: what was computed without a deterministic form, on purpose
        self.allowed: set[str] = set()

    def batches(
        self, dataset: Any, *, collate: Callable[[list[Any]], Any] | None = None, accumulate: bool = False
    ) -> Iterator[Any]:
        self._run.check_current(self)
        return TrainingRound(self._run, self.number, dataset, collate, self._run.training_cut, accumulate=accumulate)

    def evaluate(self, dataset: Any, *, collate: Callable[[list[Any]], Any] | None = None) -> Iterator[Any]:
        self._run.check_current(self)
        return EvaluationRound(self._run, self.number, dataset, collate, self._run.evaluation_cut)

    def log(self, **values: Any) -> None:
        self._sub_task("log").log(values)

    def weigh(self, weight: float) -> None:
        self._sub_task("weigh").weigh(weight)

    def discard_gradients(self) -> None:
        self._run.check_no_round(f"step.discard_gradients() is called at {user_line()}")
        self._run.tracked.gradients.discard()

    def every(self, n: int) -> bool:
        if n < 1:
            raise ContractError(f"step.every({n}) at {user_line()}: give a number of at least 1")
        return (self.number + 1) % n == 0

    @property
    def merged(self) -> Mapping[str, float]:
        return MappingProxyType(self._values)

    @property
    def num_rounds(self) -> int:
        return len(self._digests)

    def add_round(self, phase: int, merged: Merged) -> None:
        """Take a round's merge into the step's record."""
        self._digests.append(merged.digest)
        for name, value in merged.scalars.items():
            self._values[name if name not in self._values else f"{name}@{phase}"] = value

    def row(self) -> LedgerRow:
        """Return the step's ledger row."""
        run = self._run
        return LedgerRow(
            result=Result(
                step=self.number,
                first_sample=self.number * run.batch_size,
                num_samples=run.batch_size,
                digest=xxhash.xxh3_128_hexdigest(b"".join(self._digests)),
                values=dict(self._values),
            ),
            circumstances=Circumstances(
                generation=run.coordinator.generation,
                trainers=run.coordinator.trainers,
                seconds=perf_counter() - self._began,
                at=time(),
                nondeterministic=tuple(sorted({*self.allowed, *run.settings.allowed})),
            ),
        )

    def _sub_task(self, what: str) -> SubTask:
        round_: Round | None = self._run.open
        sub_task = round_.sub_task if round_ is not None and self._run.step is self else None
        if sub_task is None:
            raise ContractError(
                f"step.{what}() at {user_line(3)} is outside a sub-task: call it in the body of "
                f"`for batch in step.batches(...)` or `step.evaluate(...)`; after the loop, step.merged has the merged values"
            )
        return sub_task
