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
from surefoot_actors.engine.contract.evaluation import EvaluationRound
from surefoot_actors.engine.contract.rounds import Round, TrainingRound
from surefoot_actors.engine.contract.sub_task import SubTask, scalar
from surefoot_actors.engine.types import Merged
from surefoot_actors.engine.vector.leaves import scalar_values
from surefoot_actors.user_code.lines import user_line

if TYPE_CHECKING:
    from surefoot_actors.engine.contract.run import TrainRun

__all__ = ["NotLoggedError", "TrainStep"]


class NotLoggedError(ContractError, KeyError):
    """`step.merged` or `step.gathered` was asked for a name that it does not have."""

    __str__ = Exception.__str__


class _Values(dict[str, float]):
    """The step's merged values, by name; a name that is missing is told with what there is."""

    def __init__(self, step: int) -> None:
        self._step = step
        # of each inner loop that has ended: its line, and the names that it logged
        self._loops: list[tuple[str, tuple[str, ...]]] = []

    def ended(self, line: str, names: tuple[str, ...]) -> None:
        self._loops.append((line, names))

    def __missing__(self, name: str) -> float:
        raise NotLoggedError(f"step.merged[{name!r}] at {user_line()}: {self._story()}")

    def _story(self) -> str:
        if not self._loops:
            return (
                f"no inner loop of step {self._step} has ended yet, so nothing is merged. It holds what this step's own loops log; a "
                f"value of the step before is gone by then, so take it at that step's end"
            )
        told = "; ".join(f"the loop at {line} logged {', '.join(names) or 'nothing'}" for line, names in self._loops)
        return f"in step {self._step} {told}. A value is there after the loop whose sub-tasks call step.log(name=...)"


class _Gathered(dict[str, Any]):
    """The step's gathered rows, by name; a name that is missing is told with what there is."""

    def __missing__(self, name: str) -> Any:
        raise NotLoggedError(
            f"step.gathered[{name!r}] at {user_line()}: this step's loops have gathered {', '.join(self) or 'nothing'} so far. Rows are "
            f"there after the loop whose sub-tasks call step.gather(name=...)"
        )


class TrainStep(contract.Step):
    """One step: its rounds so far, and what they merged to."""

    def __init__(self, run: TrainRun, number: int) -> None:
        self.number = number
        self._run = run
        self._began = perf_counter()
        self._digests: list[bytes] = []
        self._values = _Values(number)
        #: of `_values`, what was logged outside of rounds
        self.logged_outside: dict[str, float] = {}
        #: rows of tensors that the rounds gathered
        self._gathered = _Gathered()
        #: what was computed without a deterministic form, on purpose
        self.allowed: set[str] = set()

    def batches(
        self,
        dataset: Any,
        *,
        collate: Callable[[list[Any]], Any] | None = None,
        sampler: Any = None,
        accumulate: bool = False,
    ) -> Iterator[Any]:
        self._run.check_current(self)
        cut = self._run.training_cut.ordered(sampler, user_line())
        return TrainingRound(self._run, self.number, dataset, collate, cut, accumulate=accumulate)

    def evaluate(self, dataset: Any, *, collate: Callable[[list[Any]], Any] | None = None) -> Iterator[Any]:
        self._run.check_current(self)
        return EvaluationRound(self._run, self.number, dataset, collate, self._run.evaluation_cut)

    def log(self, **values: Any) -> None:
        if self._run.open is not None or self._run.step is not self:
            self._sub_task("log").log(values)
            return
        line = user_line()
        for name, value in values.items():
            if name in self._values:
                raise ContractError(
                    f"{name!r} is logged at {line}, but step {self.number} has a value of that name already; give it another name"
                )
            self._values[name] = self.logged_outside[name] = scalar_values([scalar(name, value, line)])[0]

    def gather(self, **tensors: Any) -> None:
        self._sub_task("gather").gather(tensors)

    @property
    def gathered(self) -> Mapping[str, Any]:
        return MappingProxyType(self._gathered)

    @property
    def epoch(self) -> int:
        return self._run.epoch_of(self.number)

    @property
    def ends_epoch(self) -> bool:
        return self._run.ends_epoch(self.number, user_line())

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

    def add_round(self, phase: int, merged: Merged, line: str) -> None:
        """Take the merge of the round at `line` into the step's record."""
        self._digests.append(merged.digest)
        named = {
            name if name not in self._values else f"{name}@{phase}": value for name, value in merged.scalars.items()
        }
        self._values.update(named)
        self._values.ended(line, tuple(named))
        for name, rows in merged.gathered.items():
            self._gathered[name if name not in self._gathered else f"{name}@{phase}"] = rows.clone()

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
