"""Which samples a sub-task takes: pure functions of (seed, step, sub-task) and the dataset's length.

The endless stream of positions is the concatenation of the epochs, each a seeded permutation of the whole dataset. Step t takes
positions [t*B, (t+1)*B), so a batch may end one epoch and begin the next: its size never changes, and within an epoch no sample is
left out or doubled, whatever the dataset's length.
"""

from __future__ import annotations

import struct
from collections import OrderedDict

import torch

from surefoot_actors.engine.rng import Purpose, stream_key

__all__ = ["Sampler", "evaluation_slice"]

# Two epochs of one dataset, and of a second one (a GAN's): what a batch that straddles epochs needs.
_EPOCHS_KEPT = 4


class Sampler:
    """Cuts steps' batches out of the stream."""

    def __init__(self, *, seed: int, batch_size: int, sub_tasks: int) -> None:
        self._seed = seed
        self._batch_size = batch_size
        self._share = batch_size // sub_tasks
        self._epochs: OrderedDict[tuple[int, int], torch.Tensor] = OrderedDict()

    def indices(self, length: int, step: int, sub_task: int) -> torch.Tensor:
        """Return the dataset indices (int64, batch_size / sub_tasks of them) of a sub-task of a step."""
        at = step * self._batch_size + sub_task * self._share
        stop = at + self._share
        pieces = []
        while at < stop:
            epoch, inside = divmod(at, length)
            piece = self._epoch(length, epoch)[inside : inside + stop - at]
            pieces.append(piece)
            at += piece.numel()
        return pieces[0] if len(pieces) == 1 else torch.cat(pieces)

    def _epoch(self, length: int, epoch: int) -> torch.Tensor:
        order = self._epochs.get((length, epoch))
        if order is None:
            order = self._epochs[length, epoch] = _permutation(self._seed, epoch, length)
            if len(self._epochs) > _EPOCHS_KEPT:
                self._epochs.popitem(last=False)
        return order


def _permutation(seed: int, epoch: int, length: int) -> torch.Tensor:
    (number,) = struct.unpack("<Q", stream_key(seed, Purpose.ORDER, epoch, length)[:8])
    return torch.randperm(length, generator=torch.Generator().manual_seed(number))


def evaluation_slice(length: int, sub_task: int, sub_tasks: int) -> range:
    """Return the indices of an evaluation's sub-task: contiguous slices, equal to within one sample; empty where samples are few."""
    return range(sub_task * length // sub_tasks, (sub_task + 1) * length // sub_tasks)
