"""What is kept of a step while it is under way, and becomes its ledger row."""

from __future__ import annotations

from collections.abc import Iterable
from time import perf_counter, time
from typing import Any

import xxhash

from surefoot.errors import ContractError
from surefoot.events import Circumstances, LedgerRow, Result
from surefoot_actors.engine.contract.sub_task import scalar
from surefoot_actors.engine.types import Merged
from surefoot_actors.engine.vector.leaves import scalar_values
from surefoot_actors.user_code.lines import user_line

__all__ = ["NotLoggedError", "StepRecord"]


class NotLoggedError(ContractError, KeyError):
    """`step.merged` or `step.gathered` was asked for a name that it does not have."""

    __str__ = Exception.__str__


# every so many rows tell how many samples an epoch has
_EPOCH_ROWS = 100


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


class StepRecord:
    """One step: its rounds so far, and what they merged to."""

    def __init__(self, number: int) -> None:
        self.number = number
        self._began = perf_counter()
        self._digests: list[bytes] = []
        #: merged values, and what was logged outside of rounds
        self.values = _Values(number)
        self.logged_outside: dict[str, float] = {}
        #: rows of tensors that the rounds gathered
        self.gathered = _Gathered()
        #: what was computed without a deterministic form, on purpose
        self.allowed: set[str] = set()

    @property
    def num_rounds(self) -> int:
        return len(self._digests)

    def log(self, values: dict[str, Any], line: str) -> None:
        """Take values that are logged outside of rounds, at this line. Raises ContractError for a name that is taken."""
        for name, value in values.items():
            if name in self.values:
                raise ContractError(
                    f"{name!r} is logged at {line}, but step {self.number} has a value of that name already; give it another name"
                )
            self.values[name] = self.logged_outside[name] = scalar_values([scalar(name, value, line)])[0]

    def add_round(self, phase: int, merged: Merged, line: str) -> None:
        """Take the merge of the round at `line` into the record."""
        self._digests.append(merged.digest)
        named = {
            name if name not in self.values else f"{name}@{phase}": value for name, value in merged.scalars.items()
        }
        self.values.update(named)
        self.values.ended(line, tuple(named))
        for name, rows in merged.gathered.items():
            self.gathered[name if name not in self.gathered else f"{name}@{phase}"] = rows.clone()

    def row(
        self, *, batch_size: int, generation: int, trainers: int, epoch_samples: int, nondeterministic: Iterable[str]
    ) -> LedgerRow:
        """Return the step's ledger row.

        `epoch_samples`: how many samples an epoch has, or 0. `nondeterministic`: what of the run, besides this step's own, has no
        deterministic form.
        """
        return LedgerRow(
            result=Result(
                step=self.number,
                first_sample=self.number * batch_size,
                num_samples=batch_size,
                digest=xxhash.xxh3_128_hexdigest(b"".join(self._digests)),
                values=dict(self.values),
            ),
            circumstances=Circumstances(
                generation=generation,
                trainers=trainers,
                seconds=perf_counter() - self._began,
                at=time(),
                epoch_samples=epoch_samples if self.number % _EPOCH_ROWS == 0 else 0,
                nondeterministic=tuple(sorted({*self.allowed, *nondeterministic})),
            ),
        )
