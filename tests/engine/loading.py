"""Loads batches as a training loop does, on any number of data workers, without training."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from surefoot_actors.determinism.rng import Streams
from surefoot_actors.engine.data.loader import Loader, Source
from surefoot_actors.engine.data.partition import TrainingPartition
from surefoot_actors.engine.data.prefetch import BatchKey
from surefoot_actors.engine.data.sampler import Sampler

NUM_SUB_TASKS = 2


@contextmanager
def loading(data_workers: int) -> Iterator[Loader]:
    loader = Loader(Streams(3, torch.device("cpu")), 3, data_workers)
    try:
        yield loader
    finally:
        loader.close()


def a_partition(batch_size: int = 8) -> TrainingPartition:
    return TrainingPartition(Sampler(seed=3, batch_size=batch_size, sub_tasks=NUM_SUB_TASKS), NUM_SUB_TASKS)


def loaded(
    dataset: Any,
    collate: Callable[[int], Any] = lambda step: None,
    *,
    data_workers: int,
    num_steps: int = 3,
    before: Callable[[int], None] = lambda step: None,
    use: Callable[[Any], Any] = lambda batch: described(batch),
    sampler: Any = None,
    batch_size: int = 8,
) -> list[Any]:
    """Return what `use` says of each batch. `before` is what the loop does between rounds; `collate` may be another every step."""
    whole = a_partition(batch_size)
    said = []
    with loading(data_workers) as loader:
        for step in range(num_steps):
            before(step)
            partition = whole.ordered(sampler, "here.py:1")
            source: Source = loader.source(dataset, collate(step), partition, "here.py:1")
            source.begin(collate(step), partition, "here.py:1")
            for sub_task in range(NUM_SUB_TASKS):
                said.append(use(source.load(BatchKey(step, 0, sub_task, 0))))
    return said


def described(value: Any) -> Any:
    """Say everything of a batch that the bits of what is computed from it may depend on."""
    if isinstance(value, torch.Tensor):
        flat = value.detach().resolve_conj().resolve_neg().contiguous().as_strided((value.numel(),), (1,))
        about = (str(value.dtype), tuple(value.shape), value.stride(), value.requires_grad)
        return (type(value).__name__, *about, value.data_ptr() % 64, flat.view(torch.uint8).numpy().tobytes())
    if isinstance(value, np.ndarray):
        if value.dtype.hasobject or not value.size:
            return ("array", str(value.dtype), value.shape, value.tolist())
        about = (str(value.dtype), value.shape, value.strides, value.flags.writeable)
        return ("ndarray", *about, value.ctypes.data % 64, value.tobytes())
    if isinstance(value, dict):
        return (type(value).__name__, [(k, described(v)) for k, v in value.items()])
    if isinstance(value, list | tuple):
        return (type(value).__name__, [described(v) for v in value])
    if hasattr(value, "__dict__"):
        return (type(value).__name__, described(vars(value)))
    return repr(value)
