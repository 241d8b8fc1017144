"""What of a dataset the engine uses: its length, and samples by index, collated."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset, default_collate

from surefoot.errors import ContractError

__all__ = ["Fetch", "check_dataset", "fetcher", "is_plain"]

Collate = Callable[[list[Any]], Any]
Fetch = Callable[[torch.Tensor], Any]
"""Takes indices (int64) and returns the collated batch of those samples."""


def check_dataset(dataset: Any, line: str) -> int:
    """Return a dataset's length. Raises ContractError, naming the line, for what is no map-style dataset or has no samples."""
    kind = type(dataset).__name__
    if isinstance(dataset, DataLoader):
        raise ContractError(
            f"{line}: a DataLoader was given; give its dataset, as Surefoot draws the samples itself "
            f"(data_workers in the job's spec takes the place of num_workers)"
        )
    if not _is_indexable(dataset):
        raise ContractError(
            f"{line}: {kind} is not a map-style dataset: it needs __len__ and __getitem__, so that any trainer can take any "
            f"sample; for an iterable dataset, write it to files or a memory map once and index those, or to shards that "
            f"mosaicml-streaming, wids or Grain index"
        )
    try:
        length = len(dataset)
    except (TypeError, NotImplementedError) as error:
        raise ContractError(
            f"{line}: {kind} has no length ({error}); give a dataset whose samples can be counted"
        ) from error
    if length < 1:
        raise ContractError(f"{line}: {kind} is empty, so there is nothing to take batches from")
    return length


def _is_indexable(dataset: Any) -> bool:
    """Whether samples are had by number, also from what can be gone through besides: mosaicml-streaming's, say."""
    if not (hasattr(dataset, "__getitem__") and hasattr(dataset, "__len__")):
        return False
    # torch's own base class has a __getitem__ that raises
    if isinstance(dataset, IterableDataset):
        return type(dataset).__getitem__ is not Dataset.__getitem__ or hasattr(dataset, "__getitems__")
    return True


def is_plain(dataset: Any, collate: Collate | None) -> bool:
    """Whether fetching batches runs none of the user's code: then it needs no random stream, and no data worker."""
    if collate is not None:
        return False
    if type(dataset) is TensorDataset:
        return all(t.layout is torch.strided for t in dataset.tensors)
    return type(dataset) in (np.ndarray, np.memmap) and dataset.dtype.kind in "biuf"


def fetcher(dataset: Any, collate: Collate | None) -> tuple[Fetch, bool]:
    """Return how to fetch batches, and whether that is plain."""
    if is_plain(dataset, collate):
        return (_of_array(dataset) if isinstance(dataset, np.ndarray) else _of_tensors(dataset.tensors)), True
    combine = default_collate if collate is None else collate

    def fetch(indices: torch.Tensor) -> Any:
        many = getattr(dataset, "__getitems__", None)
        rows = indices.tolist()
        try:
            return combine(many(rows) if callable(many) else [dataset[i] for i in rows])
        except StopIteration as error:  # it would end the user's inner loop
            raise RuntimeError("the dataset or collate raised StopIteration") from error

    return fetch, False


def _of_tensors(tensors: tuple[torch.Tensor, ...]) -> Fetch:
    """Index whole tensors: the same values as collated samples, without a Python object each."""

    def fetch(indices: torch.Tensor) -> list[torch.Tensor]:
        return [t.index_select(0, indices if t.is_cpu else indices.to(t.device)) for t in tensors]

    return fetch


def _of_array(array: np.ndarray[Any, np.dtype[Any]]) -> Fetch:
    """Index a numpy array or memory map, copying the samples out of it into memory of torch's, which is aligned."""
    native = array.dtype.newbyteorder("=")
    dtype = torch.from_numpy(np.empty(0, native)).dtype

    def fetch(indices: torch.Tensor) -> torch.Tensor:
        batch = torch.empty((len(indices), *array.shape[1:]), dtype=dtype)
        if array.dtype == native:
            # out of range is nothing here; to raise for it, numpy would make another copy
            np.take(np.asarray(array), indices.numpy(), axis=0, out=batch.numpy(), mode="clip")
        else:
            batch.numpy()[...] = array[indices.numpy()]
        return batch

    return fetch
