"""How a dataset is cut into sub-tasks, for training and for evaluation: which samples make up the batch that a key names."""

from __future__ import annotations

from typing import Any, Protocol

import torch

from surefoot_actors.engine.data.orders import Order, Orders
from surefoot_actors.engine.data.prefetch import BatchKey
from surefoot_actors.engine.data.sampler import Sampler, evaluation_slice

__all__ = ["EvaluationPartition", "Partition", "TrainingPartition"]


class Partition(Protocol):
    """A rule that gives every batch its samples."""

    @property
    def num_sub_tasks(self) -> int: ...

    @property
    def every_step(self) -> bool:
        """Whether the next step will want batches too, as far as one can know."""

    @property
    def order(self) -> Order | None:
        """The order of samples; None for the dataset's own."""

    def check(self, length: int, line: str) -> None:
        """Raise ContractError, naming the line, where a dataset of this length cannot be cut so."""

    def described(self, length: int, step: int) -> str:
        """Return what trainers must agree on; "" where it follows from the length."""

    def num_turns(self, length: int, sub_task: int) -> int:
        """Return how many batches the sub-task has."""

    def indices(self, length: int, key: BatchKey) -> torch.Tensor:
        """Return the dataset indices (int64) of a batch."""


class TrainingPartition:
    """One batch a sub-task, out of the seeded stream of epochs."""

    every_step = True

    def __init__(self, sampler: Sampler, num_sub_tasks: int, orders: Orders | None = None) -> None:
        self._sampler = sampler
        self.order: Order = sampler.order
        self.num_sub_tasks = num_sub_tasks
        self._orders = orders or Orders(sampler.seed)

    def ordered(self, sampler: Any, line: str) -> TrainingPartition:
        """Return the cut of what the user gave as `sampler`. Raises ContractError for what is none."""
        return self if sampler is None else self._with(self._orders.of(sampler, line))

    def by_blocks(self, dataset: Any, block_size: Any, line: str) -> TrainingPartition:
        """Return the cut that goes through the dataset block by block. Raises ContractError where its blocks are not known."""
        return self._with(self._orders.by_blocks(dataset, block_size, line))

    def _with(self, order: Order) -> TrainingPartition:
        partition = TrainingPartition(self._sampler, self.num_sub_tasks, self._orders)
        partition.order = order
        return partition

    def check(self, length: int, line: str) -> None:
        self.order.check(length, line)

    def described(self, length: int, step: int) -> str:
        if self.order is self._sampler.order:
            return ""
        what = self.order.described(self._sampler.epoch(length, step, self.order))
        return f", order: {what}" if what else ""

    def num_turns(self, length: int, sub_task: int) -> int:
        return 1

    def indices(self, length: int, key: BatchKey) -> torch.Tensor:
        return self._sampler.indices(length, key.step, key.sub_task, self.order)


class EvaluationPartition:
    """The whole dataset in order: sub-task v is the v-th slice, in mini-batches of a training sub-task's size.

    Where there are fewer samples than sub-tasks, one without any gets a sample of another's, with weight 0: so it logs what the others log.
    """

    every_step = False
    order = None

    def __init__(self, share: int, num_sub_tasks: int) -> None:
        self._share = share
        self.num_sub_tasks = num_sub_tasks

    def check(self, length: int, line: str) -> None:
        """Any dataset can be cut so."""

    def described(self, length: int, step: int) -> str:
        return ""

    def num_turns(self, length: int, sub_task: int) -> int:
        return max(1, -(-len(evaluation_slice(length, sub_task, self.num_sub_tasks)) // self._share))

    def weight(self, length: int, key: BatchKey) -> int:
        """Return the number of samples that count in a batch."""
        samples = len(evaluation_slice(length, key.sub_task, self.num_sub_tasks))
        return min(samples - key.turn * self._share, self._share)

    def indices(self, length: int, key: BatchKey) -> torch.Tensor:
        piece = evaluation_slice(length, key.sub_task, self.num_sub_tasks)
        piece = piece[key.turn * self._share : (key.turn + 1) * self._share] or range(piece.start, piece.start + 1)
        return torch.arange(piece.start, piece.stop)
