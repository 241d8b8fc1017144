"""Proves that a sub-task is a function of the state alone: a trainer computes the first one of the run twice, and compares the bits.

What the user's code carries from one sub-task to the next (a recurrent net's hidden state, a counter, the batch before, an iterator of
its own) makes the result depend on who computes what, in which order. It would part even without a loss.
"""

from __future__ import annotations

from collections import deque
from typing import Any

from surefoot.errors import ContractError
from surefoot_actors.determinism.rng import drawn
from surefoot_actors.engine.data.prefetch import BatchKey
from surefoot_actors.engine.state.attributes import Attributes, Key
from surefoot_actors.engine.state.objects import variables_in_sight
from surefoot_actors.engine.state.remembered import Remembered
from surefoot_actors.engine.types import Node
from surefoot_actors.engine.vector.digest import leaf_digest

__all__ = ["Proof"]


class Proof:
    """Of one training round: its first sub-task here is handed out once more, before any other.

    Where that has filled what was unset, it is unset again, another sub-task goes first, and then that one once more: what the first batch
    decides for all that come after it would be decided by whichever sub-task a trainer computes first. The user's own records (lists of
    losses, counters, meters) are then put back as the first time has left them.
    """

    def __init__(self, attributes: Attributes, line: str, sub_tasks: int) -> None:
        self._attributes, self._line, self._sub_tasks = attributes, line, sub_tasks
        self._first: Node | None = None
        self._digest = b""
        # where the random streams were once the batch was loaded and once it was computed, of the first time
        self._drawn: list[bytes] = []
        self._loaded = b""
        # the batches to hand out again, or besides
        self._waiting: deque[BatchKey] = deque()
        # the one that is under way, and the first of all
        self._key: BatchKey | None = None
        self._first_key: BatchKey | None = None
        # what the first sub-task has filled, and another's key that fills it anew
        self._filled: dict[Key, Any] = {}
        self._other: BatchKey | None = None
        # the user's records, as the first sub-task has left them
        self._records: Remembered | None = None

    @property
    def repeats(self) -> bool:
        """Whether the sub-task under way is computed only for what it shows."""
        return self._key is not None

    def loaded(self, *, draws: bool) -> None:
        """A batch was loaded, in this process or (`draws` is false) elsewhere, or without any of the user's code."""
        self._loaded = drawn() if draws else b""

    def end(self, key: BatchKey, leaf: Node, *, may_differ: bool) -> bool:
        """A sub-task has ended. Returns whether its leaf counts. Raises ContractError when a repeated one has other bits.

        `may_differ`: the user's code has allowed an operation that gives other bits each time.
        """
        if self._first is None:
            self._begin(key, leaf)
            return True
        again, self._key = self._key, None
        if again is None:
            return True
        if again == self._other:
            self._attributes.filled_again(self._filled)
        else:
            self._compare(leaf, may_differ)
        if not self._waiting and self._records is not None:
            self._records.put_back()
            self._records = None  # it holds frames
        return False

    def _begin(self, key: BatchKey, leaf: Node) -> None:
        self._first, self._digest, self._first_key = leaf, leaf_digest(leaf), key
        self._drawn = [self._loaded, drawn()]
        self._waiting.append(key)
        self._filled = self._attributes.filled()
        if self._filled:
            self._other = self._another(key)
            self._waiting += [self._other, key]
        self._records = self._attributes.remember(variables_in_sight())

    def _another(self, key: BatchKey) -> BatchKey:
        """Return another batch of the step; where a step has one alone, the next step's."""
        if self._sub_tasks == 1:
            return key._replace(step=key.step + 1)
        return key._replace(sub_task=(key.sub_task + 1) % self._sub_tasks)

    def _compare(self, leaf: Node, may_differ: bool) -> None:
        assert self._first is not None
        # a buffer that has got its shape in the first run makes another layout
        is_comparable = leaf.layout.signature == self._first.layout.signature and not may_differ
        if is_comparable and leaf_digest(leaf) != self._digest:
            raise ContractError(self._told(leaf))
        now = [self._loaded, drawn()]
        if now != self._drawn:
            raise ContractError(self._drawn_once(loading=now[0] != self._drawn[0]))

    def _drawn_once(self, *, loading: bool) -> str:
        names = self._attributes.changed_in_round()
        kept = f" What changed in between and is in sight: {', '.join(names[:6])}." if names else ""
        what = "the dataset" if loading else "the code of the inner loop"
        return (
            f"sub-task 0 of the inner loop at {self._line} was computed twice, and {what} drew other random numbers the second time: "
            f"something random is drawn when it is first needed and then kept (a mask, a cached sample with its augmentation), so its "
            f"values would depend on which trainer needs it first, and a trainer that joins would draw others.{kept} Draw it before "
            f"run.steps() (in a buffer of a tracked module), or anew each time"
        )

    def take(self) -> BatchKey | None:
        """Return the batch to hand out for what it shows, if there is one."""
        self._key = self._waiting.popleft() if self._waiting else None
        if self._key is not None and self._key == self._other:
            self._attributes.unset(self._filled)
        return self._key

    def _told(self, leaf: Node) -> str:
        assert self._first is not None
        values = zip(leaf.layout.scalars, self._first.scalars, leaf.scalars, strict=True)
        logged = [f"step.log({name}=...)" for name, one, other in values if one != other]
        where = (
            f" ({', '.join(logged)} told {'another value' if len(logged) == 1 else 'other values'})" if logged else ""
        )
        names = self._attributes.changed_in_round()
        carried = f" What changed in between and is in sight: {', '.join(names[:6])}." if names else ""
        if self._waiting or self._other is None:
            return (
                f"sub-task {leaf.range.lo} of the inner loop at {self._line} was computed twice, and gave other bits the second time"
                f"{where}: something is carried from one sub-task to the next, so the result would depend on who computes what.{carried} "
                f"Begin it anew in every sub-task (a hidden state, an iterator, a random generator of its own), keep it in a buffer of a "
                f"tracked module, or change it after the loop"
            )
        return (
            f"sub-task {leaf.range.lo} of the inner loop at {self._line} was computed twice, and gave other bits once sub-task "
            f"{self._other.sub_task} had gone before it{where}: what the first batch decides for all that come after it (a mean, a "
            f"first loss, the numbers of words) would be another one on every trainer, and on one that joins.{carried} Decide it before "
            f"run.steps(), of the dataset, or after the loop by step.merged or step.gathered"
        )
