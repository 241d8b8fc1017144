"""The inner loops: iterators that hand out this trainer's sub-tasks of a round and end when the round is merged."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import Any

import torch

from surefoot.errors import ContractError
from surefoot_actors.determinism.rng import Purpose
from surefoot_actors.engine.contract.as_joiner import AsJoiner
from surefoot_actors.engine.contract.context import RoundContext
from surefoot_actors.engine.contract.for_another import ForAnother
from surefoot_actors.engine.contract.loop import Loop, check_mode
from surefoot_actors.engine.contract.proof import Proof
from surefoot_actors.engine.contract.settings import forget_casts, has_casts
from surefoot_actors.engine.contract.sub_task import SubTask
from surefoot_actors.engine.data.partition import Partition
from surefoot_actors.engine.data.prefetch import BatchKey
from surefoot_actors.engine.exchange.agreement import Held, agree
from surefoot_actors.engine.exchange.contribution import NO_DIGEST
from surefoot_actors.engine.types import Merged, Node, Position
from surefoot_actors.engine.vector.digest import leaf_digest
from surefoot_actors.engine.vector.exact_buffers import combine, first_conflict
from surefoot_actors.engine.vector.leaves import Logged
from surefoot_actors.faults import points as faults
from surefoot_actors.user_code.lines import user_line

__all__ = ["Round", "TrainingRound"]


class Round(ABC, Iterator[Any]):
    """One inner loop. Made by the user's call, opened by the loop's first turn, closed by its last."""

    #: whether `.grad` stays as it is
    keeps_gradients: bool

    def __init__(
        self,
        context: RoundContext,
        loop: Loop,
        step: int,
        dataset: Any,
        collate: Callable[[list[Any]], Any] | None,
        partition: Partition,
    ) -> None:
        self._context, self._loop, self._step = context, loop, step
        #: the user's line that began the loop
        self.line = user_line(3)
        self._collate, self._partition = collate, partition
        self._source = context.loader.source(dataset, collate, partition, self.line)
        self._position: Position | None = None
        self._ended = False
        #: the sub-task that the user's code computes right now
        self.sub_task: SubTask | None = None
        # the first leaf made here: what a round's leaves must have in common. Its buckets may be folded away.
        self._first: Node | None = None
        # what of the leaves made here cannot be averaged, together
        self._exact = b""

    @property
    def data(self) -> str:
        """Return the line of a layout that tells what the round's samples are taken from."""
        length = self._source.length
        return f"data {length} samples{self._partition.described(length, self._step)}  # {self.line}"

    def __next__(self) -> Any:
        if self._ended:
            raise StopIteration
        if torch.is_inference_mode_enabled():
            if not self.keeps_gradients:
                check_mode(f"the inner loop at {self.line}")
            # what is made here outlives the user's inference mode
            with torch.inference_mode(False):
                return self.__next__()
        if self._position is None:
            self._loop.check_no_round(f"another begins at {self.line}")
            self._check()
            self._position = self._loop.open_round(self)
            # the dataset counts as it is now, on data workers too
            self._source.begin(self._collate, self._partition, self.line)
            self._begin()
        else:
            self._take_back()
        key = self._next_key(self._position)
        if key is None:
            self._close()
            raise StopIteration
        batch = self._source.load(key)
        self._loaded()
        self._prepare()
        self._loop.graphs.begin_sub_task()
        if has_casts():
            forget_casts()
        self._context.streams.start(Purpose.COMPUTE, *key)
        faults.point("forward", self._step)
        return batch

    def _put(self, leaf: Node) -> None:
        """Hand over a leaf. Raises ContractError, as the merge would across trainers, when it is unlike this round's others."""
        if self._first is None:
            self._first, self._exact = leaf, leaf.exact
        elif leaf.layout is not self._first.layout:
            agree([Held(sub_task=n.range.lo, layout=n.layout) for n in (self._first, leaf)], self._step)
        if leaf.exact != self._exact:
            if (number := first_conflict(self._exact, leaf.exact)) is not None:
                raise ContractError(_exact_difference(leaf, number))
            self._exact = combine(self._exact, leaf.exact)
        self._context.coordinator.put_leaf(leaf)

    def _close(self) -> None:
        merged = self._context.coordinator.merged()
        self._ended = True
        self._end(merged)
        self._loop.close_round(self, merged)

    def _check(self) -> None:
        """Raise ContractError where the round may not begin."""

    @abstractmethod
    def _begin(self) -> None:
        """The round is open."""

    @abstractmethod
    def _take_back(self) -> None:
        """The user's code has worked on the batch it was given."""

    @abstractmethod
    def _next_key(self, position: Position) -> BatchKey | None:
        """Return the next batch to hand out, None when the round is merged."""

    def _loaded(self) -> None:
        """A batch was loaded."""

    def _prepare(self) -> None:
        """The user's code is about to get a batch."""

    @abstractmethod
    def _end(self, merged: Merged) -> None:
        """The round is merged on this trainer."""

    @property
    def repeats(self) -> bool:
        """Whether the sub-task under way is computed only for what it shows."""
        return False

    def abandon(self) -> None:
        """The run ends without the round's merge: put back what the round has set."""


class TrainingRound(Round):
    """`step.batches`: one batch a sub-task; leaves hold gradients, buffers and logged values."""

    keeps_gradients = False

    def __init__(self, *args: Any, accumulate: bool) -> None:
        super().__init__(*args)
        #: whether the merge is added to the gradients that there are
        self.accumulate = accumulate
        # which has the first sub-task computed more than once
        self._trial: Proof | AsJoiner | None = None
        # while one of another trainer is computed
        self._for_another: ForAnother | None = None

    @property
    def repeats(self) -> bool:
        """Whether the sub-task under way is computed only for what it shows."""
        return self._for_another is not None or (self._trial is not None and self._trial.repeats)

    def _check(self) -> None:
        self._context.tracked.gradients.open(self.line, accumulate=self.accumulate)

    def _begin(self) -> None:
        assert self._partition.order is not None
        self._loop.learn_epoch(self._partition.order.num_samples(self._source.length))
        self._context.leaves.open(self.data)
        self._context.unchanged.open(self._step)
        self._before = self._context.tracked.gradients.take(accumulate=self.accumulate)
        self._num_computed = 0
        self._weight = 1.0
        # whether the sub-task under way is compared with another trainer's
        self._is_compared = False
        attributes = self._context.tracked.attributes
        if self._loop.proves(self.line):
            self._trial = Proof(attributes, self.line, self._context.sub_tasks)
        elif self._loop.tries_as_joiner(self.line):
            self._trial = AsJoiner(attributes, self.line)

    def _take_back(self) -> None:
        assert self.sub_task is not None
        self._loop.untracked.check(self.line)
        if self._context.unchanged.before is not None:
            self._context.unchanged.check(self.line)
        logged, number = self.sub_task.logged(), self.sub_task.number
        leaf = self._leaf(number, logged)
        self.sub_task = None
        if self._is_compared:
            self._context.coordinator.show(number, self._shown(leaf))
        if self._for_another is not None:
            self._context.leaves.drop(leaf)
            self._for_another.end()
            self._for_another = None  # it holds frames
            return
        if self._trial is not None and not self._trial.end(self._key, leaf, may_differ=self._loop.is_nondeterministic):
            self._context.leaves.drop(leaf)
            return
        self._num_computed, self._weight = self._num_computed + 1, logged.weight
        self._put(leaf)

    def _shown(self, leaf: Node) -> bytes:
        """Return what is compared: nothing where bits may differ, or where a buffer has got its shape since the others' first one."""
        is_of_another_layout = self._first is not None and leaf.layout.signature != self._first.layout.signature
        return NO_DIGEST if self._loop.is_nondeterministic or is_of_another_layout else leaf_digest(leaf)

    def _leaf(self, sub_task: int, logged: Logged) -> Node:
        try:
            return self._context.leaves.make(sub_task, logged)
        except ContractError as error:
            if self.line in str(error):
                raise
            raise ContractError(f"the inner loop at {self.line}: {error}") from error

    def _next_key(self, position: Position) -> BatchKey | None:
        if self._trial is not None and (again := self._trial.take()) is not None:
            self.sub_task, self._is_compared = SubTask(again.sub_task), False
            return again
        number = self._context.coordinator.next_sub_task()
        if number is None:
            return None
        self.sub_task, key = SubTask(number), BatchKey(self._step, position.phase, number, 0)
        self._is_compared = self._context.coordinator.is_compared
        if not self._context.coordinator.is_own:
            self._for_another = ForAnother(self._context.tracked.attributes)
            return key
        self._key = key
        return key

    def _loaded(self) -> None:
        if self._trial is not None:
            self._trial.loaded(draws=self._source.draws)

    def _prepare(self) -> None:
        self._context.leaves.begin()
        self._context.unchanged.begin()

    def abandon(self) -> None:
        """Put standard output back, if the user's code has left the loop within a sub-task of another trainer."""
        if self._for_another is not None:
            self._for_another.abandon()
            self._for_another = None

    def _end(self, merged: Merged) -> None:
        self._context.unchanged.close(self.line)
        # The merge of a single sub-task of weight 1 is that sub-task's leaf: its gradients are in place.
        in_place = self._context.sub_tasks == 1 and self._num_computed == 1 and self._weight == 1.0
        present = self._context.leaves.deliver(merged, in_place=in_place, before=self._before)
        self._before = {}
        self._context.tracked.gradients.delivered(self.line, present)


def _exact_difference(leaf: Node, number: int) -> str:
    names = [line.split()[1] for line in leaf.layout.description if line.startswith("exact ")]
    return (
        f"an integer or bool buffer ends differently in sub-task {leaf.range.lo} than in those before it: {names[number]}. Such "
        f"buffers cannot be averaged, so all sub-tasks of a round that write one must leave it equal; keep what depends on the data "
        f"out of them"
    )
