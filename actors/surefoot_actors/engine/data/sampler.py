"""Which samples a sub-task takes: pure functions of (seed, step, sub-task) and the dataset's length.

The endless stream of positions is the concatenation of the epochs, each with the whole dataset in a seeded order, or in the order that
the user gave. Step t takes positions [t*B, (t+1)*B), so a batch may end one epoch and begin the next: its size never changes, and
within an epoch no sample is left out or doubled, whatever the dataset's length.
"""

from __future__ import annotations

import torch

from surefoot_actors.engine.data.orders import Order, Shuffled

__all__ = ["Sampler", "evaluation_slice"]

_BATCHES_KEPT = 6


class Sampler:
    """Cuts steps' batches out of the stream."""

    def __init__(self, *, seed: int, batch_size: int, sub_tasks: int, order: Order | None = None) -> None:
        self.seed = seed
        self._batch_size = batch_size
        self._share = batch_size // sub_tasks
        self.order: Order = order or Shuffled(seed)
        # whole batches, of the last few steps and orders: a sub-task is a slice of one
        self._batches: dict[tuple[int, int, int], tuple[Order, torch.Tensor]] = {}

    def indices(self, length: int, step: int, sub_task: int, order: Order | None = None) -> torch.Tensor:
        """Return the dataset indices (int64, batch_size / sub_tasks of them) of a sub-task of a step."""
        order = order or self.order
        kept = self._batches.get((length, step, id(order)))
        if kept is None:
            if len(self._batches) >= _BATCHES_KEPT:
                del self._batches[next(iter(self._batches))]
            kept = self._batches[length, step, id(order)] = order, self._batch(length, step, order)
        return kept[1][sub_task * self._share : (sub_task + 1) * self._share]

    def _batch(self, length: int, step: int, order: Order) -> torch.Tensor:
        an_epoch = order.num_samples(length)
        at = step * self._batch_size
        stop = at + self._share * (self._batch_size // self._share)
        pieces = []
        while at < stop:
            epoch, inside = divmod(at, an_epoch)
            num = min(stop - at, an_epoch - inside)
            pieces.append(order.indices(length, epoch, inside, inside + num))
            at += num
        return pieces[0] if len(pieces) == 1 else torch.cat(pieces)

    def epoch(self, length: int, step: int, order: Order | None = None) -> int:
        """Return the number of the epoch in which a step begins."""
        return step * self._batch_size // (order or self.order).num_samples(length)


def evaluation_slice(length: int, sub_task: int, sub_tasks: int) -> range:
    """Return the indices of an evaluation's sub-task: contiguous slices, equal to within one sample; empty where samples are few."""
    return range(sub_task * length // sub_tasks, (sub_task + 1) * length // sub_tasks)
