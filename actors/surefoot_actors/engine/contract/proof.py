"""Proves that a sub-task is a function of the state alone: a trainer computes the first one of the run twice, and compares the bits.

What the user's code carries from one sub-task to the next (a recurrent net's hidden state, a counter, the batch before, an iterator of
its own) makes the result depend on who computes what, in which order. It would part even without a loss.
"""

from __future__ import annotations

import xxhash

from surefoot.errors import ContractError
from surefoot_actors.determinism.rng import drawn
from surefoot_actors.engine.data.prefetch import BatchKey
from surefoot_actors.engine.state.attributes import Attributes
from surefoot_actors.engine.types import Node
from surefoot_actors.engine.vector.memory import flat_bytes, memory_of

__all__ = ["Proof"]


class Proof:
    """Of one training round: its first sub-task here is handed out once more, before any other."""

    def __init__(self, attributes: Attributes, line: str) -> None:
        self._attributes, self._line = attributes, line
        self._first: Node | None = None
        self._digest = b""
        # where the random streams were once the batch was loaded and once it was computed, of the first time
        self._drawn: list[bytes] = []
        self._loaded = b""
        #: the batch to hand out again
        self.again: BatchKey | None = None
        #: whether the sub-task under way is the one that is computed again
        self.repeats = False

    def loaded(self, *, draws: bool) -> None:
        """A batch was loaded, in this process or (`draws` is false) elsewhere, or without any of the user's code."""
        self._loaded = drawn() if draws else b""

    def end(self, key: BatchKey, leaf: Node) -> bool:
        """A sub-task has ended. Returns whether its leaf counts. Raises ContractError when a repeated one has other bits."""
        if self._first is None:
            self._first, self._digest, self.again = leaf, _digest(leaf), key
            self._drawn = [self._loaded, drawn()]
            return True
        if not self.repeats:
            return True
        self.repeats = False
        # a buffer that has got its shape in the first run makes another layout
        if leaf.layout.signature == self._first.layout.signature and _digest(leaf) != self._digest:
            raise ContractError(self._told(leaf))
        now = [self._loaded, drawn()]
        if now != self._drawn:
            raise ContractError(self._drawn_once(loading=now[0] != self._drawn[0]))
        return False

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
        """Return the batch to hand out again, once."""
        key, self.again = self.again, None
        self.repeats = key is not None
        return key

    def _told(self, leaf: Node) -> str:
        assert self._first is not None
        values = zip(leaf.layout.scalars, self._first.scalars, leaf.scalars, strict=True)
        logged = [f"step.log({name}=...)" for name, one, other in values if one != other]
        where = (
            f" ({', '.join(logged)} told {'another value' if len(logged) == 1 else 'other values'})" if logged else ""
        )
        names = self._attributes.changed_in_round()
        carried = f" What changed in between and is in sight: {', '.join(names[:6])}." if names else ""
        return (
            f"sub-task {leaf.range.lo} of the inner loop at {self._line} was computed twice, and gave other bits the second time{where}: "
            f"something is carried from one sub-task to the next, so the result would depend on who computes what.{carried} Begin it "
            f"anew in every sub-task (a hidden state, an iterator, a random generator of its own), keep it in a buffer of a tracked "
            f"module, or change it after the loop"
        )


def _digest(leaf: Node) -> bytes:
    state = xxhash.xxh3_128()
    for tensor in (*leaf.buckets, *leaf.gathered):
        state.update(memory_of(flat_bytes(tensor)))
    state.update(repr((leaf.weight, leaf.scalars, leaf.presence, leaf.exact)).encode())
    return state.digest()
