"""`step.evaluate`: a round over a whole dataset, in eval mode and without gradients, that merges logged values only."""

from __future__ import annotations

import torch

from surefoot_actors.engine.contract.rounds import Round
from surefoot_actors.engine.contract.sub_task import Accumulated, SubTask
from surefoot_actors.engine.data.prefetch import BatchKey
from surefoot_actors.engine.types import Merged, Node, Position, Range
from surefoot_actors.engine.vector.digest import make_layout
from surefoot_actors.engine.vector.leaves import gathers_of

__all__ = ["EvaluationRound"]


class EvaluationRound(Round):
    """Sub-task v is the v-th slice of the dataset, in mini-batches. Its leaf has the weight of its samples."""

    keeps_gradients = True

    # as it was before the round; None: nothing is set yet
    _grad_enabled: bool | None = None

    def _begin(self) -> None:
        modules = self._context.tracked.modules.values()
        self._modes = [(part, part.training) for module in modules for part in module.modules()]
        for module in modules:
            module.eval()
        self._context.buffers.open()
        self._grad_enabled = torch.is_grad_enabled()
        torch.set_grad_enabled(False)
        self._number: int | None = None
        self._turn = self._num_turns = 0
        self._sum = Accumulated()

    def _take_back(self) -> None:
        assert self.sub_task is not None
        self._sum.add(self.sub_task.logged())
        self.sub_task = None

    def _next_key(self, position: Position) -> BatchKey | None:
        partition = self._context.evaluation_partition
        while self._turn == self._num_turns:
            if self._number is not None:
                self._finish_sub_task(self._number)
            self._number = self._context.coordinator.next_sub_task()
            if self._number is None:
                return None
            self._turn, self._num_turns = 0, partition.num_turns(self._source.length, self._number)
        assert self._number is not None
        key = BatchKey(self._step, position.phase, self._number, self._turn)
        self.sub_task = SubTask(self._number, weight=float(partition.weight(self._source.length, key)))
        self._turn += 1
        return key

    def _finish_sub_task(self, number: int) -> None:
        self._context.buffers.harvest()
        self._context.buffers.restore()
        leaf = _values_leaf(number, self._sum, self.data)
        self._sum = Accumulated()
        self._put(leaf)

    def _end(self, merged: Merged) -> None:
        self.abandon()

    def abandon(self) -> None:
        """Put modes and gradient mode back as they were."""
        if self._grad_enabled is None:
            return
        torch.set_grad_enabled(self._grad_enabled)
        for part, mode in self._modes:
            part.training = mode


def _values_leaf(number: int, values: Accumulated, data: str) -> Node:
    names, gathered = sorted(values.sums), values.gathered()
    layout = make_layout(
        buckets=(),
        num_presence=0,
        scalars=names,
        exact_bytes=0,
        description=[data] + [f"log {name}  # {values.lines[name]}" for name in names],
        gathers=gathers_of(gathered),
    )
    return Node(
        range=Range(number, number + 1),
        layout=layout,
        buckets=[],
        weight=values.weight,
        scalars=tuple(values.sums[name] for name in names),
        presence=0,
        exact=b"",
        gathered=tuple(gathered[name] for name in sorted(gathered)),
    )
