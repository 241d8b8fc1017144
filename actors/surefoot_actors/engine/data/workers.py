"""Batches that data workers load ahead of the training thread: what it waits for first, else what it will probably want.

Each batch is loaded under the random stream that its key names, so who loads it, and when, makes no difference.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from surefoot.errors import ContractError
from surefoot_actors.engine.data.datasets import check_dataset
from surefoot_actors.engine.data.following import Follower, check_shareable
from surefoot_actors.engine.data.partition import Partition
from surefoot_actors.engine.data.pool import DEPTH, Pool, reraise
from surefoot_actors.engine.data.prefetch import BatchKey, PrefetchPlan
from surefoot_actors.engine.data.worker import Raised

__all__ = ["WorkerSource"]


class WorkerSource:
    """One dataset's data workers. They start with the first load, and end with `close` or with the process that started them."""

    draws = False

    def __init__(self, dataset: Any, partition: Partition, seed: int, num_workers: int) -> None:
        self.length = 0
        self._dataset = dataset
        self._num_sub_tasks, self._every_step = partition.num_sub_tasks, partition.every_step
        self._pool = Pool(dataset, seed, num_workers)
        self._most_ahead = DEPTH * num_workers
        self._follower = Follower()
        self._prefetch = PrefetchPlan(partition.num_sub_tasks, every_step=partition.every_step)
        # what decides the samples of a batch, besides its key
        self._order: tuple[int, object] | None = None
        self._asked: set[BatchKey] = set()
        # here, not yet wanted
        self._ready: dict[BatchKey, Any] = {}

    def begin(self, collate: Callable[[list[Any]], Any] | None, partition: Partition, line: str) -> None:
        """Begin a round: the workers have the dataset as it is now. Raises ContractError where they cannot."""
        self.length = check_dataset(self._dataset, line)
        partition.check(self.length, line)
        self._collate, self._partition, self._line = collate, partition, line
        self._turns = {v: n for v in range(partition.num_sub_tasks) if (n := partition.num_turns(self.length, v)) != 1}
        order = (self.length, partition.order)  # an equal order is the same object
        if order != self._order:
            self._order = order
            self._forget()
            self._pool.drop()
        changes = self._follower.look((self._dataset, collate), line)
        if changes is None:
            self._forget()
            if self._pool.started:
                self._start()
        elif changes:
            self._forget()
            self._pool.tell(changes)

    def load(self, key: BatchKey) -> Any:
        """Return the batch; blocks until a worker has loaded it. Raises what the dataset raises.

        Raises SurefootError for samples that data workers die of, DataWorkersLostError when none can be had.
        """
        if not self._pool.started:
            self._start()
        self._prefetch.observe(key)
        for stale in [k for k in self._ready if k.step < key.step]:
            del self._ready[stale]
        if self._asked:
            self._take(wait=False)
        if key not in self._ready and key not in self._asked:
            self._ask(key)
        self._ask_ahead()
        while key not in self._ready:
            self._take(wait=True)
            self._ask_ahead()
        batch = self._ready.pop(key)
        if isinstance(batch, Raised):
            self._raise(batch)
        return batch

    def close(self) -> None:
        """End the workers."""
        self._forget()
        self._follower.forget()
        self._pool.close()

    def _start(self) -> None:
        check_shareable((self._dataset, self._collate), self._line)
        self._pool.start(self._collate)

    def _forget(self) -> None:
        self._asked.clear()
        self._ready.clear()

    def _take(self, *, wait: bool) -> None:
        for key, batch, raised in self._pool.arrived(wait=wait):
            self._asked.discard(key)
            self._ready[key] = raised or batch

    def _ask_ahead(self) -> None:
        while len(self._asked) + len(self._ready) < self._most_ahead and self._pool.room():
            key = self._prefetch.next(_Either(self._asked, self._ready), self._turns)
            if key is None:
                return
            self._ask(key)

    def _ask(self, key: BatchKey) -> None:
        self._asked.add(key)
        self._pool.ask(key, self._partition.indices(self.length, key))

    def _raise(self, raised: Raised) -> None:
        try:
            reraise(raised)
        except ContractError as error:
            raise ContractError(f"{self._line}: {error}") from error.__cause__


class _Either:
    """Contains what either collection does."""

    def __init__(self, asked: set[BatchKey], ready: dict[BatchKey, Any]) -> None:
        self._asked, self._ready = asked, ready

    def __contains__(self, key: object) -> bool:
        return key in self._asked or key in self._ready
