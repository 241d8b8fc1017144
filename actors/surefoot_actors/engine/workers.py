"""Data workers: processes that load batches ahead of the training thread, on torch's DataLoader.

The DataLoader asks a sampler for what to load next; the sampler here answers with what the training thread waits for, else with a
guess. Each batch is loaded under the random stream that its key names, so who loads it, and when, makes no difference.
"""

from __future__ import annotations

import ctypes
import os
import signal
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from surefoot.errors import SurefootError
from surefoot_actors.engine.cuts import Cut
from surefoot_actors.engine.datasets import fetcher
from surefoot_actors.engine.foresight import Foresight, Key
from surefoot_actors.engine.rng import Purpose, Streams

__all__ = ["WorkerSource"]

_PR_SET_PDEATHSIG = 1

_Request = tuple[Key, torch.Tensor] | None
"""What a worker is to load; None: nothing is worth loading."""


class WorkerSource:
    """One dataset's data workers. They start with the first load, and end with `close` or with the process that started them."""

    def __init__(
        self,
        dataset: Any,
        collate: Callable[[list[Any]], Any] | None,
        length: int,
        cut: Cut,
        seed: int,
        num_workers: int,
    ) -> None:
        self.length = length
        self._cut = cut
        self._foresight = Foresight(cut.num_sub_tasks, every_step=cut.every_step)
        self._turns = {v: n for v in range(cut.num_sub_tasks) if (n := cut.num_turns(length, v)) != 1}
        self._loader = DataLoader(
            _Served(dataset, collate, seed),
            batch_size=None,
            sampler=_Requests(self._next_request),
            num_workers=num_workers,
            collate_fn=_unchanged,
            worker_init_fn=partial(_end_with_parent, os.getpid()),
            # the workers' base seed would be drawn from the user's generator
            generator=torch.Generator(),
        )
        self._batches: Iterator[Any] | None = None
        # asked for, not yet here
        self._asked: set[Key] = set()
        # here, not yet wanted
        self._ready: dict[Key, Any] = {}
        self._wanted: Key | None = None

    def load(self, key: Key) -> Any:
        """Return the batch; blocks until a worker has loaded it. Raises what the dataset raises, SurefootError for a dead worker."""
        self._foresight.observe(key)
        for stale in [k for k in self._ready if k.step < key.step]:
            del self._ready[stale]
        if key not in self._ready and key not in self._asked:
            self._wanted = key
        while key not in self._ready:
            self._receive()
        return self._ready.pop(key)

    def close(self) -> None:
        """End the workers."""
        if self._batches is not None:
            self._batches._shutdown_workers()  # type: ignore[attr-defined]
        self._batches = None
        self._ready.clear()

    def _receive(self) -> None:
        try:
            if self._batches is None:
                self._batches = iter(self._loader)
            arrived = next(self._batches)
        except RuntimeError as error:
            if not str(error).startswith("DataLoader worker"):
                raise
            raise SurefootError(
                f"a data worker died ({error}); if the machine ran out of memory, lower data_workers in the job's spec, "
                f"else run with data_workers=0 to see the error where it happens"
            ) from error
        if arrived is not None:
            key, batch = arrived
            self._asked.discard(key)
            self._ready[key] = batch

    def _next_request(self) -> _Request:
        key, self._wanted = self._wanted, None
        if key is None:
            key = self._foresight.next(_Either(self._asked, self._ready), self._turns)
        if key is None:
            return None
        self._asked.add(key)
        return key, self._cut.indices(self.length, key)


class _Either:
    """Contains what either collection does."""

    def __init__(self, asked: set[Key], ready: dict[Key, Any]) -> None:
        self._asked, self._ready = asked, ready

    def __contains__(self, key: object) -> bool:
        return key in self._asked or key in self._ready


class _Requests:
    """A sampler without end."""

    def __init__(self, next_request: Callable[[], _Request]) -> None:
        self._next_request = next_request

    def __iter__(self) -> Iterator[_Request]:
        while True:
            yield self._next_request()


class _Served(Dataset[Any]):
    """The dataset as a worker sees it: indexed by requests."""

    def __init__(self, dataset: Any, collate: Callable[[list[Any]], Any] | None, seed: int) -> None:
        self._dataset, self._collate, self._seed = dataset, collate, seed
        self._open: tuple[Streams, Callable[[torch.Tensor], Any]] | None = None

    def __getitem__(self, request: _Request) -> tuple[Key, Any] | None:
        if request is None:
            return None
        if self._open is None:  # in the worker: closures do not pickle
            self._open = Streams(self._seed, torch.device("cpu")), fetcher(self._dataset, self._collate)[0]
        streams, fetch = self._open
        key, indices = request
        streams.start(Purpose.LOAD, *key)
        return key, fetch(indices)


def _unchanged(value: Any) -> Any:
    return value


def _end_with_parent(parent: int, _worker: int) -> None:
    """Have the kernel end this worker when the trainer ends, by SIGKILL even."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it ended before the call
        os._exit(1)
