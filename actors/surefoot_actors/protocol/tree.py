"""The merge tree: one fixed binary tree over sub-task numbers, so that sums associate alike whoever computes them.

tree(a, b) = leaf(a) if b - a == 1, else tree(a, m) + tree(m, b) with m = a + the largest power of two below b - a.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import NamedTuple, TypeVar

__all__ = ["Range", "bits", "cover", "fold", "mask", "parent", "sibling", "split"]

T = TypeVar("T")


class Range(NamedTuple):
    """Sub-tasks [lo, hi)."""

    lo: int
    hi: int


def split(node: Range) -> tuple[Range, Range]:
    """Return the two children of a node of more than one sub-task."""
    middle = node.lo + (1 << (node.hi - node.lo - 1).bit_length() - 1)
    return Range(node.lo, middle), Range(middle, node.hi)


def mask(node: Range) -> int:
    """Return the node's sub-tasks as a bitmask."""
    return (1 << node.hi) - (1 << node.lo)


def bits(sub_tasks: int) -> tuple[int, ...]:
    """Return the numbers of the set bits, ascending."""
    return tuple(v for v in range(sub_tasks.bit_length()) if sub_tasks >> v & 1)


@lru_cache(maxsize=4096)
def cover(sub_tasks: int, num_sub_tasks: int) -> tuple[Range, ...]:
    """Return the fewest nodes of the tree over [0, num_sub_tasks) that make up a set of sub-tasks, ascending."""

    def walk(node: Range) -> tuple[Range, ...]:
        whole = mask(node)
        if sub_tasks & whole == whole:
            return (node,)
        if not sub_tasks & whole:
            return ()
        left, right = split(node)
        return walk(left) + walk(right)

    return walk(Range(0, num_sub_tasks))


@lru_cache(maxsize=65536)
def parent(node: Range, num_sub_tasks: int) -> Range | None:
    """Return the node's parent in the tree over [0, num_sub_tasks), None for the root."""
    at = Range(0, num_sub_tasks)
    if at == node:
        return None
    while True:
        left, right = split(at)
        if node in (left, right):
            return at
        at = left if node.hi <= left.hi else right


@lru_cache(maxsize=65536)
def sibling(node: Range, num_sub_tasks: int) -> Range | None:
    """Return the other child of the node's parent, None for the root."""
    above = parent(node, num_sub_tasks)
    if above is None:
        return None
    left, right = split(above)
    return right if node == left else left


def fold(nodes: Mapping[Range, T], add: Callable[[T, T], T], num_sub_tasks: int) -> T:
    """Combine nodes that together make up the root, in tree order: add(left, right).

    Raises KeyError when a sub-task is missing.
    """

    def walk(node: Range) -> T:
        if node in nodes:
            return nodes[node]
        if node.hi - node.lo == 1:
            raise KeyError(node)
        left, right = split(node)
        return add(walk(left), walk(right))

    return walk(Range(0, num_sub_tasks))
