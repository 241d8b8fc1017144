"""Sees that a backward pass stays in the sub-task that built its graph: elsewhere, its gradients are part of no leaf, or of a wrong one.

Autograd numbers the nodes of its graphs in the order in which a thread makes them, so a node tells when it was made. Other threads
count for themselves, from 0 on: a graph in which such numbers are seen tells nothing, and is let pass.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Any

import torch

from surefoot.errors import ContractError
from surefoot_actors.user_code.lines import user_line

__all__ = ["Graphs", "leaves", "roots"]

# Graphs of so many rounds ago are still known.
_ROUNDS = 8
# What the run's own thread makes has at least this number, so that threads which begin at 0 are apart from it for a while.
_LEAST = 4096

_now = torch.autograd._get_sequence_nr  # type: ignore[attr-defined]


class Graphs:
    """Knows which numbers were given in inner loops, and in the sub-task under way."""

    def __init__(self) -> None:
        # of each round: its line, its first number, and the one after its last
        self._rounds: deque[list[Any]] = deque(maxlen=_ROUNDS)
        self._sub_task = 0
        # whether devices' own threads make nodes too
        self._mixed = False
        #: whether passes inside of sub-tasks are looked at too
        self.thorough = True

    def begin(self) -> None:
        """The loop over steps begins on this thread."""
        with torch.enable_grad():
            some = torch.zeros(1, requires_grad=True, device="cpu")
            for _ in range(_LEAST - _now()):
                some.view(1)

    def open(self, line: str) -> None:
        self._rounds.append([line, _now(), None])

    def close(self) -> None:
        self._rounds[-1][2] = _now()

    def begin_sub_task(self) -> None:
        self._sub_task = _now()

    def before_pass(self, tensors: Any, *, makes_graph: bool) -> None:
        """A pass makes a graph: one that is not computed on the CPU makes it in its device's thread."""
        if makes_graph and not self._mixed:
            self._mixed = any(t.device.type != "cpu" for t in roots(tensors))

    def before_backward(self, tensors: Any, *, inside: bool) -> None:
        """Raise ContractError where the graph was built in a sub-task that is over. `inside`: a sub-task is under way."""
        if (inside and not self.thorough) or not self._rounds or self._mixed:
            return
        end = self._sub_task if inside else self._rounds[-1][2]
        spans = [(line, first, end if last is None else last) for line, first, last in self._rounds]
        numbers = _numbers(roots(tensors), spans[0][1], inside=inside)
        for line, first, last in spans:
            if any(first <= number < last for number in numbers):
                raise ContractError(self._told(line, inside=inside))

    def _told(self, loop: str, *, inside: bool) -> str:
        where = "in another sub-task" if inside else "after it"
        return (
            f"the backward pass at {user_line(3)} goes through what a sub-task of the inner loop at {loop} has computed, {where}: what is "
            f"merged of a sub-task is what is in .grad when the loop asks for its next batch, so these gradients would depend on how many "
            f"sub-tasks this trainer computes. Call backward() in the body of the inner loop, for each batch by itself (not on losses "
            f"kept from batch to batch, nor on batches that were collected in a list)"
        )


def roots(tensors: Any) -> list[torch.Tensor]:
    """Return what a pass is given, one tensor or several, as a list."""
    given = [tensors] if isinstance(tensors, torch.Tensor) else list(tensors)
    return [t for t in given if isinstance(t, torch.Tensor)]


def leaves(tensors: Any) -> list[torch.Tensor]:
    """Return the leaves of a graph: what a backward pass from these tensors gives a .grad."""
    given = roots(tensors)
    waiting = [t.grad_fn for t in given if t.grad_fn is not None]
    seen, found = set(waiting), [t for t in given if t.grad_fn is None]
    while waiting:
        node = waiting.pop()
        if isinstance(leaf := getattr(node, "variable", None), torch.Tensor):
            found.append(leaf)
        after = {before for before, _ in node.next_functions if before is not None} - seen
        seen |= after
        waiting.extend(after)
    return found


def _numbers(given: Iterable[torch.Tensor], least: int, *, inside: bool) -> list[int]:
    """Return the numbers of a graph's nodes, as far back as `least`: what a node was made from is older than it is.

    None of them where that does not hold, or, inside of a sub-task, nodes are older than the loop: other threads have made some.
    """
    waiting = [t.grad_fn for t in given if t.grad_fn is not None]
    seen, numbers = set(waiting), []
    while waiting:
        node = waiting.pop()
        if not node.next_functions:
            continue
        number = node._sequence_nr()
        if number < least:
            if inside:
                return []
            continue
        numbers.append(number)
        for before, _ in node.next_functions:
            if before is None or not before.next_functions:
                continue
            if before._sequence_nr() > number:
                return []
            if before not in seen:
                seen.add(before)
                waiting.append(before)
    return numbers
