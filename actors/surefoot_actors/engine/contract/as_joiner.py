"""Tries what a trainer would compute that joins now: it has not what inner loops have left in objects and variables, which it is not given.

Each trainer's inner loops leave other values, a record of its own losses say, and no digest is made of them. Where a later sub-task goes by
such a value (the largest batch so far, prototypes that an evaluation has summed up), the result depends on who has computed what.
"""

from __future__ import annotations

from surefoot.errors import ContractError
from surefoot_actors.engine.data.prefetch import BatchKey
from surefoot_actors.engine.state.attributes import Attributes
from surefoot_actors.engine.state.objects import variables_in_sight
from surefoot_actors.engine.state.parts import put
from surefoot_actors.engine.state.remembered import Remembered
from surefoot_actors.engine.types import Node
from surefoot_actors.engine.vector.digest import leaf_digest

__all__ = ["AsJoiner"]


class AsJoiner:
    """Of one training round: its first sub-task here is handed out once more, with the values that those have who join."""

    def __init__(self, attributes: Attributes, line: str) -> None:
        self._attributes, self._line = attributes, line
        self._parts = attributes.left.as_for_joiners(line)
        self._first: Node | None = None
        self._digest = b""
        self._waiting: BatchKey | None = None
        # what the user's code holds, as the first time has left it
        self._records: Remembered | None = None

    @property
    def repeats(self) -> bool:
        """Whether the sub-task under way is computed only for what it shows."""
        return self._records is not None and self._waiting is None

    def loaded(self, *, draws: bool) -> None:
        """A batch was loaded."""

    def end(self, key: BatchKey, leaf: Node, *, may_differ: bool) -> bool:
        """A sub-task has ended. Returns whether its leaf counts. Raises ContractError when the repeated one has other bits."""
        if self._records is not None:
            self._compare(leaf, may_differ)
            self._records.put_back()
            self._records, self._parts = None, []  # it holds frames
            return False
        if self._first is None:
            self._first, self._digest = leaf, leaf_digest(leaf)
            if self._parts:
                self._waiting, self._records = key, self._attributes.remember(variables_in_sight())
        return True

    def take(self) -> BatchKey | None:
        """Return the batch to hand out for what it shows, if there is one."""
        again, self._waiting = self._waiting, None
        if again is not None:
            for (_, slot), thing, value in self._parts:
                put(thing, slot, value)
        return again

    def _compare(self, leaf: Node, may_differ: bool) -> None:
        assert self._first is not None
        is_comparable = leaf.layout.signature == self._first.layout.signature and not may_differ
        if is_comparable and leaf_digest(leaf) != self._digest:
            names = self._attributes.words(key for key, _, _ in self._parts)
            raise ContractError(
                f"sub-task {leaf.range.lo} of the inner loop at {self._line} was computed twice, and gave other bits without what inner "
                f"loops of earlier steps have left on this trainer, which one that joins has not: {', '.join(names[:6])}. That would "
                f"depend on which trainer has computed what. Log or gather it in the inner loop and take step.merged or step.gathered, "
                f"keep it in a buffer of a tracked module, or change it after the loop"
            )
