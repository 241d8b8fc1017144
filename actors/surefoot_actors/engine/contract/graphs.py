"""Sees that a backward pass stays in the sub-task that built its graph: elsewhere, its gradients are part of no leaf, or of a wrong one.

Autograd numbers the nodes of its graphs in the order in which a thread makes them, so a node tells when it was made.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any

import torch

from surefoot.errors import ContractError
from surefoot_actors.user_code.lines import user_line

__all__ = ["Graphs"]

# Graphs of so many rounds ago are still known.
_ROUNDS = 8

_now = torch.autograd._get_sequence_nr  # type: ignore[attr-defined]


class Graphs:
    """Knows which numbers were given in inner loops, and in the sub-task under way."""

    def __init__(self) -> None:
        # of each round: its line, its first number, and the one after its last
        self._rounds: deque[list[Any]] = deque(maxlen=_ROUNDS)
        self._sub_task = 0
        #: whether passes inside of sub-tasks are looked at too
        self.thorough = True

    def open(self, line: str) -> None:
        self._rounds.append([line, _now(), None])

    def close(self) -> None:
        self._rounds[-1][2] = _now()

    def begin_sub_task(self) -> None:
        self._sub_task = _now()

    def before_backward(self, tensors: Any, *, inside: bool) -> None:
        """Raise ContractError where the graph was built in a sub-task that is over. `inside`: a sub-task is under way."""
        if (inside and not self.thorough) or not self._rounds:
            return
        end = self._sub_task if inside else self._rounds[-1][2]
        spans = [(line, first, end if last is None else last) for line, first, last in self._rounds]
        roots = [tensors] if isinstance(tensors, torch.Tensor) else tensors
        for number in _numbers(roots, spans[0][1]):
            for line, first, last in spans:
                if first <= number < last:
                    raise ContractError(self._told(line, inside=inside))

    def _told(self, loop: str, *, inside: bool) -> str:
        where = "in another sub-task" if inside else "after it"
        return (
            f"the backward pass at {user_line(3)} goes through what a sub-task of the inner loop at {loop} has computed, {where}: what is "
            f"merged of a sub-task is what is in .grad when the loop asks for its next batch, so these gradients would depend on how many "
            f"sub-tasks this trainer computes. Call backward() in the body of the inner loop, for each batch by itself (not on losses "
            f"kept from batch to batch, nor on batches that were collected in a list)"
        )


def _numbers(roots: Iterable[Any], least: int) -> Iterator[int]:
    """Yield the numbers of a graph's nodes, as far back as `least`: what a node was made from is older than it is."""
    waiting = [r.grad_fn for r in roots if isinstance(r, torch.Tensor) and r.grad_fn is not None]
    seen = set(waiting)
    while waiting:
        node = waiting.pop()
        number = node._sequence_nr()
        if number < least or not node.next_functions:
            continue
        yield number
        for before, _ in node.next_functions:
            if before is not None and before not in seen:
                seen.add(before)
                waiting.append(before)
