"""Batches for sub-tasks: loaded in the training thread, or ahead of time by data workers, with the same bits."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from types import FunctionType, MethodType
from typing import Any, NamedTuple, Protocol

import torch

from surefoot_actors.determinism.rng import Purpose, Streams
from surefoot_actors.engine.data.datasets import Fetch, check_dataset, fetcher, is_plain
from surefoot_actors.engine.data.memory import settle
from surefoot_actors.engine.data.packing import carry
from surefoot_actors.engine.data.partition import Partition
from surefoot_actors.engine.data.prefetch import BatchKey
from surefoot_actors.engine.data.workers import WorkerSource

__all__ = ["Loader", "Source"]

Collate = Callable[[list[Any]], Any]

# Code that makes a new dataset every step must not collect workers without end.
_MOST_SOURCES = 8


class Source(Protocol):
    """Batches of one dataset, cut one way."""

    #: samples in the dataset, when the round began
    length: int

    @property
    def draws(self) -> bool:
        """Whether `load` runs the user's code in this process, under a random stream."""

    def begin(self, collate: Collate | None, partition: Partition, line: str) -> None:
        """Begin a round: from here on the dataset counts as it is now. Raises ContractError, naming the line."""

    def load(self, key: BatchKey) -> Any:
        """Return the collated batch; random transforms see the stream that the key names."""

    def close(self) -> None:
        """End what runs in the background."""


class _Opened(NamedTuple):
    # kept alive, as their ids are the key
    dataset: Any
    collate: Collate | None
    source: Source


class Loader:
    """The datasets that a train function uses, each opened once."""

    def __init__(self, streams: Streams, seed: int, data_workers: int) -> None:
        self._streams, self._seed, self._data_workers = streams, seed, data_workers
        self._opened: OrderedDict[tuple[object, ...], _Opened] = OrderedDict()

    def source(self, dataset: Any, collate: Collate | None, partition: Partition, line: str) -> Source:
        """Return the dataset's batches. Raises ContractError for what is no map-style dataset, naming the line."""
        inline = not self._data_workers or is_plain(dataset, collate)
        key = (id(dataset), inline or _kind(collate), partition.every_step)
        known = self._opened.get(key)
        if known is not None:
            self._opened.move_to_end(key)
            return known.source
        check_dataset(dataset, line)  # again when the round begins
        source = self._open(dataset, partition, inline)
        self._opened[key] = _Opened(dataset, collate, source)
        if len(self._opened) > _MOST_SOURCES:
            self._opened.popitem(last=False)[1].source.close()
        return source

    def _open(self, dataset: Any, partition: Partition, inline: bool) -> Source:
        if inline:
            return InlineSource(dataset, self._streams)
        return WorkerSource(dataset, partition, self._seed, self._data_workers)

    def close(self) -> None:
        """End all data workers."""
        for opened in self._opened.values():
            opened.source.close()
        self._opened.clear()


class InlineSource:
    """Loads in the training thread, with one thread, as data workers do."""

    _partition: Partition
    _fetch: Fetch
    _is_plain: bool

    def __init__(self, dataset: Any, streams: Streams) -> None:
        self.length = 0
        self._dataset, self._streams = dataset, streams

    def begin(self, collate: Collate | None, partition: Partition, line: str) -> None:
        self.length = check_dataset(self._dataset, line)
        partition.check(self.length, line)
        self._partition = partition
        # without one, the batch is a fresh copy of the samples
        self._settles = collate is not None
        self._fetch, self._is_plain = fetcher(self._dataset, collate)

    @property
    def draws(self) -> bool:
        return not self._is_plain

    def load(self, key: BatchKey) -> Any:
        indices = self._partition.indices(self.length, key)
        if self._is_plain:  # loading runs none of the user's code
            return self._fetch(indices)
        self._streams.start(Purpose.LOAD, *key)
        threads = torch.get_num_threads()
        if threads == 1:
            return self._load(indices)
        torch.set_num_threads(1)
        try:
            return self._load(indices)
        finally:
            torch.set_num_threads(threads)

    def _load(self, indices: torch.Tensor) -> Any:
        return settle([self._fetch(indices)], carry) if self._settles else self._fetch(indices)

    def close(self) -> None:
        """Nothing runs in the background."""


def _kind(collate: Any) -> object:
    """Return what is equal for functions of one kind: a lambda or a bound method is another object every time it is written.

    What they hold may differ: data workers follow that as they follow the dataset.
    """
    if isinstance(collate, FunctionType):
        return collate.__code__
    if isinstance(collate, MethodType):
        return MethodType, _kind(collate.__func__), type(collate.__self__)
    if isinstance(collate, partial):
        return partial, _kind(collate.func), len(collate.args), tuple(collate.keywords)
    return type(collate)
