"""The leaves a trainer holds of a round, folded as far as the merge tree allows: O(log span) vectors for a span."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from surefoot_actors.engine.types import Node, Range
from surefoot_actors.engine.vector.exact_buffers import combine
from surefoot_actors.engine.vector.pools import LeafPool, shared_pool
from surefoot_actors.protocol.tree import mask, parent, sibling

__all__ = ["NodeStore"]


class NodeStore:
    """Nodes of one round, siblings folded as soon as both are held.

    A node that `nodes()` has handed out may be on its way to a peer, of a dead generation even, until the round is committed: it is
    never written or recycled before `clear()`.
    """

    def __init__(self, num_sub_tasks: int, pool: LeafPool | None = None) -> None:
        self._num_sub_tasks = num_sub_tasks
        self._pool = pool if pool is not None else shared_pool()
        self._nodes: dict[Range, Node] = {}
        self._shown: set[int] = set()
        # folded while shown: recycled at the commit
        self._retired: list[Node] = []
        self.held = 0

    def put(self, node: Node) -> None:
        """Add a node, of the layout of those held, folding upwards. One already held is ignored."""
        if self.held & mask(node.range):
            self._release(node)
            return
        self.held |= mask(node.range)
        while (beside := sibling(node.range, self._num_sub_tasks)) is not None and beside in self._nodes:
            node = self._fold(node, self._nodes.pop(beside))
        self._nodes[node.range] = node

    def nodes(self) -> Mapping[Range, Node]:
        """Return the maximal nodes held, ascending. From now until `clear` they are read-only."""
        self._shown.update(id(node) for node in self._nodes.values())
        return dict(sorted(self._nodes.items()))

    def clear(self) -> None:
        """The round is committed: forget every node and recycle all buffers."""
        for node in (*self._nodes.values(), *self._retired):
            self._pool.give(node.buckets)
        self._nodes.clear()
        self._retired.clear()
        self._shown.clear()
        self.held = 0

    def _fold(self, one: Node, other: Node) -> Node:
        left, right = (one, other) if one.range.lo < other.range.lo else (other, one)
        assert left.layout.signature == right.layout.signature, "rounds see to it that their leaves are alike"
        buckets = self._sum(left, right)
        return Node(
            range=parent(left.range, self._num_sub_tasks) or left.range,
            layout=left.layout,
            buckets=buckets,
            weight=left.weight + right.weight,
            scalars=tuple(a + b for a, b in zip(left.scalars, right.scalars, strict=True)),
            presence=left.presence | right.presence,
            exact=combine(left.exact, right.exact),
            gathered=left.gathered
            and tuple(torch.cat(rows) for rows in zip(left.gathered, right.gathered, strict=True)),
        )

    def _sum(self, left: Node, right: Node) -> list[torch.Tensor]:
        """Return left + right, operands on their sides (a NaN's payload depends on it), in the memory of one that is free."""
        into = next((node for node in (left, right) if id(node) not in self._shown), None)
        out = into.buckets if into is not None else self._pool.take(left.layout, _device(left))
        for a, b, c in zip(left.buckets, right.buckets, out, strict=True):
            torch.add(a, b, out=c)
        for node in (left, right):
            if node is not into:
                self._release(node)
        return out

    def _release(self, node: Node) -> None:
        if id(node) in self._shown:
            self._retired.append(node)
        else:
            self._pool.give(node.buckets)


def _device(node: Node) -> torch.device:
    return node.buckets[0].device if node.buckets else torch.device("cpu")
