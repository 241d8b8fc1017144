"""The merge of nodes that one member holds all of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from surefoot_actors.engine.exchange.agreement import agree, held_layouts
from surefoot_actors.engine.exchange.gathering import join_rows, own_rows
from surefoot_actors.engine.exchange.reduce import NodeHead, merge_heads, merge_part
from surefoot_actors.engine.types import Layout, Merged, Node, Range
from surefoot_actors.engine.vector.digest import merged_digest
from surefoot_actors.engine.vector.pools import BufferPool

__all__ = ["MergeResult", "merge_alone"]


@dataclass(frozen=True, slots=True, kw_only=True)
class MergeResult:
    merged: Merged
    # whether any member had its flag set when it sent
    flag: bool
    # whether any member was asked for a snapshot when it sent
    snapshot: bool
    # whether any member was still writing an earlier one
    busy: bool
    # the round's layout, equal on all members: `agreed` for the next round of this phase
    layout: Layout


def merge_alone(
    *,
    round: int,
    step: int,
    nodes: Mapping[Range, Node],
    num_sub_tasks: int,
    flag: bool = False,
    snapshot: bool = False,
    busy: bool = False,
    pool: BufferPool | None = None,
) -> MergeResult:
    """Merge nodes that make up the whole tree, without a group. Same bits and digest as any number of members.

    Raises ContractError where nodes differ in layout or exact bytes, or nothing has weight.
    """
    layout = agree(held_layouts(nodes.values()), step)
    head = merge_heads({r: head_of(node) for r, node in nodes.items()}, layout, num_sub_tasks)
    device = next(iter(nodes.values())).buckets[0].device if layout.buckets else torch.device("cpu")
    buckets = (pool or BufferPool()).take(layout, device)
    digests = [
        merge_part(
            {r: node.buckets[i] for r, node in nodes.items()},
            buckets[i],
            weight=head[0],
            num_sub_tasks=num_sub_tasks,
            chunk=bucket.chunk_numel,
        )
        for i, bucket in enumerate(layout.buckets)
    ]
    merged = finish(round, layout, buckets, head, digests, join_rows(own_rows(nodes), layout))
    return MergeResult(merged=merged, flag=flag, snapshot=snapshot, busy=busy, layout=layout)


def head_of(node: Node) -> NodeHead:
    """Return what of a node is not in buckets."""
    return node.weight, node.scalars, node.presence, node.exact


def finish(
    round: int,
    layout: Layout,
    buckets: list[torch.Tensor],
    head: NodeHead,
    digests: list[bytes],
    gathered: Mapping[str, torch.Tensor],
) -> Merged:
    """Return the merged vector; `digests` are the joined chunk digests, one a bucket."""
    weight, scalars, presence, exact = head
    return Merged(
        round=round,
        layout=layout,
        buckets=buckets,
        weight=weight,
        scalars=dict(zip(layout.scalars, scalars, strict=True)),
        presence=presence,
        exact=exact,
        gathered=gathered,
        digest=merged_digest(
            digests,
            scalars=scalars,
            weight=weight,
            presence=presence,
            num_presence=layout.num_presence,
            exact=exact,
            gathered=gathered.values(),
        ),
    )
