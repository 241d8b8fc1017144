"""Adding nodes in tree order: the arithmetic of a merge, on the part of the vector that a trainer merges."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache

import torch

from surefoot.errors import ContractError
from surefoot_actors.engine.types import Bucket, Layout, Range
from surefoot_actors.engine.vector.digest import chunk_digests
from surefoot_actors.engine.vector.exact_buffers import combine
from surefoot_actors.protocol.tree import fold, split

__all__ = ["NodeHead", "merge_heads", "merge_part", "slice_of"]

# Sums, division and hash of a block follow each other while it is in the cache.
_BLOCK_BYTES = 256 * 1024

NodeHead = tuple[float, tuple[float, ...], int, bytes]
"""What of a node is not in buckets: weight, scalars, presence, exact."""


def slice_of(bucket: Bucket, rank: int, size: int) -> tuple[int, int]:
    """Return the elements [start, stop) of a bucket that `rank` merges: whole chunks, spread evenly."""
    chunks = bucket.num_chunks
    start, stop = chunks * rank // size, chunks * (rank + 1) // size
    return min(start * bucket.chunk_numel, bucket.numel), min(stop * bucket.chunk_numel, bucket.numel)


def merge_heads(heads: Mapping[Range, NodeHead], layout: Layout, num_sub_tasks: int) -> NodeHead:
    """Return the merge's weight, mean scalars, presence and exact bytes.

    Raises ContractError where exact bytes do not agree, or nothing has weight.
    """
    weight, sums, presence, exact = fold(heads, _add_heads, num_sub_tasks)
    if weight == 0.0 and (layout.buckets or layout.scalars):
        raise ContractError(
            "every sub-task of the round has weight 0, so there is no weighted mean: "
            "give step.weigh() a positive number in at least one sub-task"
        )
    return weight, tuple(s / weight for s in sums), presence, exact


def _add_heads(left: NodeHead, right: NodeHead) -> NodeHead:
    sums = tuple(a + b for a, b in zip(left[1], right[1], strict=True))
    return left[0] + right[0], sums, left[2] | right[2], combine(left[3], right[3])


def merge_part(
    parts: Mapping[Range, torch.Tensor], out: torch.Tensor, *, weight: float, num_sub_tasks: int, chunk: int
) -> bytes:
    """Write the mean of one flat part of the nodes into `out`, equal in shape, and return its chunk digests.

    The parts are only read. Operands keep their sides, so that even the payload of a NaN does not depend on who adds.
    """
    block = max(chunk, _BLOCK_BYTES // out.itemsize // chunk * chunk)
    ranges = tuple(sorted(parts))
    depth = _depth(ranges, Range(0, num_sub_tasks))
    scratch = [torch.empty(min(block, out.numel()), dtype=out.dtype, device=out.device) for _ in range(depth - 1)]
    digests = []
    for at in range(0, out.numel(), block):
        piece = out[at : at + block]
        views = {r: part[at : at + block] for r, part in parts.items()}
        rows = [row[: piece.numel()] for row in scratch]
        total = _sum(Range(0, num_sub_tasks), views, [piece, *rows])
        _divide(total, weight, piece)
        digests.append(chunk_digests(piece, chunk))
    return b"".join(digests)


def _sum(node: Range, views: Mapping[Range, torch.Tensor], rows: Sequence[torch.Tensor]) -> torch.Tensor:
    """Return the node's sum: the view itself, or rows[0] with the sum in it."""
    view = views.get(node)
    if view is not None:
        return view
    left, right = split(node)
    a = _sum(left, views, rows)
    b = _sum(right, views, rows[1:])
    return torch.add(a, b, out=rows[0])


def _divide(total: torch.Tensor, weight: float, out: torch.Tensor) -> None:
    if weight != 1.0:
        torch.div(total, weight, out=out)
    elif total.data_ptr() != out.data_ptr():
        out.copy_(total)


@lru_cache(maxsize=1024)
def _depth(ranges: tuple[Range, ...], node: Range) -> int:
    """Return how many rows `_sum` needs for a node, at least 1."""
    if node in ranges or node.hi - node.lo == 1:
        return 1
    left, right = split(node)
    a, b = _depth(ranges, left), _depth(ranges, right)
    return max(a, b + (right not in ranges), 1)
