"""Data workers as the training thread sees them: forked processes that are asked for batches, and replaced when they die.

Why this is not torch's DataLoader: its workers share a queue, whose lock a killed one takes with it; a dead worker, an unpicklable
batch and a lack of descriptors end in errors of the main thread or in a hang, and no worker can be replaced or told of a change.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import select
import signal
import weakref
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

from surefoot.errors import SurefootError
from surefoot_actors.engine.data.changes import Change
from surefoot_actors.engine.data.channel import Channel, ChannelClosedError
from surefoot_actors.engine.data.prefetch import BatchKey
from surefoot_actors.engine.data.worker import Answer, Load, Raised, WorkerSetup, work

__all__ = ["DataWorkersLostError", "Pool"]

# Batches that a worker is asked for at a time: it need not wait for training to come round.
DEPTH = 2

# So many workers that die of the same batch, one after another, are no accident.
_MOST_DEATHS = 3

# Without any batch in between, so many that die are too many, whatever they die of.
_MOST_IN_A_ROW = 10

# How long a worker may take over what it is loading when it is to end.
_END_S = 5.0

# How often a silent worker is looked at: its end is usually told by its channel.
_LOOK_S = 2.0

# The ends of all channels in this process: a worker must not hold those of others.
_CHANNELS: weakref.WeakSet[Channel] = weakref.WeakSet()


class DataWorkersLostError(SurefootError):
    """Data workers cannot be had on this machine, or are killed again and again: the loss of the trainer that needs them."""


@dataclass(eq=False)
class _Worker:
    process: multiprocessing.process.BaseProcess
    channel: Channel
    # what it was asked for and has not answered, in order; it is loading the first
    asked: deque[Load] = field(default_factory=deque)


class Pool:
    """The data workers of one dataset."""

    def __init__(self, dataset: Any, seed: int, num_workers: int) -> None:
        self._dataset, self._seed, self._num_workers = dataset, seed, num_workers
        self._collate: Callable[[list[Any]], Any] | None = None
        self._workers: list[_Worker] = []
        # told to end, perhaps busy with a last batch
        self._ending: list[_Worker] = []
        self._serial = 0
        # answers to requests before this one are of no use
        self._valid_from = 0
        self._deaths: Counter[tuple[BatchKey, bytes]] = Counter()
        self._in_a_row = 0

    @property
    def started(self) -> bool:
        return bool(self._workers)

    def start(self, collate: Callable[[list[Any]], Any] | None) -> None:
        """Fork workers that have the dataset as it is now, in place of those that there are."""
        self._end_workers()
        self._collate = collate
        self._workers = [self._fork(i) for i in range(self._num_workers)]

    def tell(self, changes: list[Change]) -> None:
        """Have the workers take over changed values; what they were asked for before is dropped."""
        self.drop()
        for worker in list(self._workers):
            try:
                worker.channel.send(changes)
            except ChannelClosedError:
                self._replace(worker)  # the new one has the dataset as it is

    def drop(self) -> None:
        """Take no answers to what was asked so far."""
        self._valid_from = self._serial
        self._deaths.clear()

    def room(self) -> bool:
        """Whether a worker could be asked for more."""
        return any(len(worker.asked) < DEPTH for worker in self._workers)

    def ask(self, key: BatchKey, indices: torch.Tensor) -> None:
        """Have the least busy worker load a batch."""
        load = Load(self._serial, key, indices.numpy())
        self._serial += 1
        while True:
            worker = min(self._workers, key=lambda w: len(w.asked))
            worker.asked.append(load)
            try:
                worker.channel.send(load)
            except ChannelClosedError:
                worker.asked.pop()
                self._lost(worker)
            else:
                return

    def arrived(self, *, wait: bool) -> list[tuple[BatchKey, Any, Raised | None]]:
        """Return the batches that have come; with `wait`, blocks until something has happened."""
        poll = select.poll()
        for worker in self._workers:
            if worker.asked:
                poll.register(worker.channel.fileno(), select.POLLIN)
        ready = {number for number, _ in poll.poll(_LOOK_S * 1000 if wait else 0)}
        found = []
        for worker in list(self._workers):
            if worker.asked and worker.channel.fileno() in ready:
                answer = self._answer(worker)
                if answer is not None:
                    found.append(answer)
            elif wait and not ready and not worker.process.is_alive():
                self._lost(worker)  # something that it started keeps its end of the channel open
        return found

    def _answer(self, worker: _Worker) -> tuple[BatchKey, Any, Raised | None] | None:
        try:
            answer: Answer = worker.channel.receive()
        except ChannelClosedError:
            self._lost(worker)
            return None
        load = worker.asked.popleft()
        self._in_a_row = 0
        return None if load.serial < self._valid_from else (load.key, answer.batch, answer.raised)

    # ---- lives and deaths

    def _fork(self, number: int) -> _Worker:
        setup = WorkerSetup(self._dataset, self._collate, self._seed, number, self._num_workers, os.getpid())
        mine = its = None
        try:
            mine, its = Channel.pair()
            _CHANNELS.add(mine)
            process = multiprocessing.get_context("fork").Process(
                target=work, args=(setup, its, list(_CHANNELS)), name="data-worker", daemon=True
            )
            process.start()
        except OSError as error:
            for channel in (mine, its):
                if channel is not None:
                    channel.close()
            raise DataWorkersLostError(
                f"a data worker could not be started ({error}): the machine is short of memory, processes or open files; "
                f"lower data_workers in the job's spec"
            ) from error
        its.close()
        return _Worker(process, mine)

    def _replace(self, worker: _Worker) -> _Worker:
        """Have another worker in its place."""
        worker.channel.close()
        worker.process.join(_END_S)
        at = self._workers.index(worker)
        self._workers[at] = fresh = self._fork(at)
        return fresh

    def _lost(self, worker: _Worker) -> None:
        """A worker has died: start another, and ask it for what this one was asked for. Raises when that leads nowhere."""
        fresh = self._replace(worker)
        asked = [load for load in worker.asked if load.serial >= self._valid_from]
        self._in_a_row += 1
        if asked:
            self._count(asked[0], worker.process.exitcode)
        if self._in_a_row >= _MOST_IN_A_ROW:
            raise DataWorkersLostError(
                f"{self._in_a_row} data workers died in a row, the last of {_how(worker.process.exitcode)}; {_MEMORY}"
            )
        try:
            for load in asked:
                fresh.asked.append(load)
                fresh.channel.send(load)
        except ChannelClosedError:
            self._lost(fresh)  # ends with _MOST_IN_A_ROW

    def _count(self, load: Load, exitcode: int | None) -> None:
        what = (load.key, load.indices.tobytes())
        self._deaths[what] += 1
        if self._deaths[what] < _MOST_DEATHS:
            return
        message = (
            f"a data worker died of {_how(exitcode)}, as did the {_MOST_DEATHS - 1} before it, each while it loaded the samples "
            f"{_shown(load.indices.tolist())}"
        )
        if exitcode == -signal.SIGKILL:
            raise DataWorkersLostError(f"{message}; {_MEMORY}")
        raise SurefootError(f"{message}; run with data_workers=0 to see the fault where it happens")

    def _end_workers(self) -> None:
        for worker in self._workers:
            worker.channel.close()
        self._ending = [w for w in self._ending + self._workers if w.process.is_alive()]
        self._workers = []
        self.drop()

    def close(self) -> None:
        """End the workers; one that is still loading after a while is killed."""
        self._end_workers()
        for worker in self._ending:
            worker.process.join(_END_S)
            if worker.process.is_alive():
                worker.process.kill()
                worker.process.join()
        self._ending = []


_MEMORY = "if the machine ran out of memory, lower data_workers in the job's spec"


def _how(exitcode: int | None) -> str:
    if exitcode is None:
        return "an unknown cause"
    return signal.Signals(-exitcode).name if exitcode < 0 else f"exit code {exitcode}"


def _shown(indices: list[int]) -> str:
    return str(indices) if len(indices) <= 32 else f"{str(indices[:32])[:-1]}, ... ({len(indices)} in all)]"


def reraise(raised: Raised) -> None:
    """Raise what a worker raised, with its traceback as the cause."""
    cause = RemoteTraceback(raised.traceback)
    if raised.pickled:
        raise pickle.loads(raised.pickled) from cause  # noqa: S301  from our own worker
    raise SurefootError(f"{raised.kind} in a data worker: {raised.message}") from cause


class RemoteTraceback(Exception):
    """The traceback of an exception in a data worker."""

    def __str__(self) -> str:
        return f"\n{self.args[0]}"
