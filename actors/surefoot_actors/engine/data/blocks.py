"""Large batches are collated where they can be handed over: in files in memory, one a tensor, that a data worker passes on."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils.data import _utils as torch_data

from surefoot_actors.engine.data.channel import mapped
from surefoot_actors.engine.data.memory import is_plain_tensor

__all__ = ["Blocks"]

# bytes; smaller tensors are copied
_LARGE = 64 << 10


class Blocks:
    """The files that tensors of the present batch were collated into."""

    def __init__(self) -> None:
        #: by the tensor's address
        self.files: dict[int, int] = {}
        # so that nothing else comes to lie at those addresses
        self._kept: list[torch.Tensor] = []

    def clear(self) -> None:
        """Forget the batch; its memory lives as long as its tensors, here or where it was sent."""
        for number in self.files.values():
            os.close(number)
        self.files.clear()
        self._kept.clear()

    def collate(self, samples: list[Any], **options: Any) -> Any:
        """As torch's default collate does outside of workers, and to the same strides."""
        out = self._room(samples)
        if out is not None:
            return torch.stack(samples, 0, out=out)
        with _as_in_training():
            return torch_data.collate.collate_tensor_fn(samples, **options)

    def _room(self, samples: list[Any]) -> torch.Tensor | None:
        first = samples[0]
        if not is_plain_tensor(first) or first.nbytes * len(samples) < _LARGE:
            return None
        shape = (len(samples), *first.shape)
        stride = torch.empty(shape, device="meta").stride()
        # so it is the batch's own: the strides of samples decide those of a batch
        if first.stride() != stride[1:] or not all(_is_like(first, sample) for sample in samples):
            return None
        number = os.memfd_create("surefoot-batch")
        size = first.nbytes * len(samples)
        os.ftruncate(number, size)
        out = mapped(number, size).view(first.dtype).view(shape)
        self.files[out.data_ptr()] = number
        self._kept.append(out)
        return out


def _is_like(first: torch.Tensor, other: Any) -> bool:
    return (
        is_plain_tensor(other) and other.shape == first.shape and other.dtype == first.dtype and not other.requires_grad
    )


@contextmanager
def _as_in_training() -> Iterator[None]:
    known = torch_data.worker._worker_info
    torch_data.worker._worker_info = None
    try:
        yield
    finally:
        torch_data.worker._worker_info = known
