"""Batches for sub-tasks: loaded in the training thread, or ahead of time by data workers, with the same bits."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from types import FunctionType
from typing import Any, NamedTuple, Protocol

import torch

from surefoot_actors.engine.cuts import Cut
from surefoot_actors.engine.datasets import Fetch, check_dataset, fetcher
from surefoot_actors.engine.foresight import Key
from surefoot_actors.engine.rng import Purpose, Streams
from surefoot_actors.engine.workers import WorkerSource

__all__ = ["Loader", "Source"]

Collate = Callable[[list[Any]], Any]

# Code that makes a new dataset every step must not collect workers without end.
_MOST_SOURCES = 8


class Source(Protocol):
    """Batches of one dataset, cut one way."""

    #: samples in the dataset
    length: int

    def load(self, key: Key) -> Any:
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

    def source(self, dataset: Any, collate: Collate | None, cut: Cut, line: str) -> Source:
        """Return the dataset's batches. Raises ContractError for what is no map-style dataset, naming the line."""
        key = (id(dataset), _same(collate), id(cut))
        known = self._opened.get(key)
        if known is not None:
            return known.source
        length = check_dataset(dataset, line)
        fetch, is_plain = fetcher(dataset, collate)
        source: Source
        if is_plain or not self._data_workers:
            source = InlineSource(fetch, length, cut, None if is_plain else self._streams)
        else:
            source = WorkerSource(dataset, collate, length, cut, self._seed, self._data_workers)
        self._opened[key] = _Opened(dataset, collate, source)
        if len(self._opened) > _MOST_SOURCES:
            self._opened.popitem(last=False)[1].source.close()
        return source

    def close(self) -> None:
        """End all data workers."""
        for opened in self._opened.values():
            opened.source.close()
        self._opened.clear()


class InlineSource:
    """Loads in the training thread, with one thread, as data workers do."""

    def __init__(self, fetch: Fetch, length: int, cut: Cut, streams: Streams | None) -> None:
        self.length = length
        self._fetch, self._cut = fetch, cut
        # None: loading runs none of the user's code
        self._streams = streams

    def load(self, key: Key) -> Any:
        indices = self._cut.indices(self.length, key)
        if self._streams is None:
            return self._fetch(indices)
        self._streams.start(Purpose.LOAD, *key)
        threads = torch.get_num_threads()
        if threads == 1:
            return self._fetch(indices)
        torch.set_num_threads(1)
        try:
            return self._fetch(indices)
        finally:
            torch.set_num_threads(threads)

    def close(self) -> None:
        """Nothing runs in the background."""


def _same(collate: Collate | None) -> object:
    """Return what is equal for equal functions: a lambda written in the call is another object every time."""
    if isinstance(collate, FunctionType):
        cells = tuple(id(cell.cell_contents) for cell in collate.__closure__ or ())
        return collate.__code__, collate.__defaults__ and tuple(map(id, collate.__defaults__)), cells
    return id(collate)
