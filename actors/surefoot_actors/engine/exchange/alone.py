"""The merge of nodes that one member holds all of."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from surefoot_actors.engine.exchange.agreement import agree, held_layouts
from surefoot_actors.engine.exchange.contribution import Contribution, MergeResult
from surefoot_actors.engine.exchange.gathering import join_rows, own_rows
from surefoot_actors.engine.exchange.reduce import NodeHead, merge_heads, merge_part
from surefoot_actors.engine.types import Layout, Merged, Node
from surefoot_actors.engine.vector.digest import merged_digest
from surefoot_actors.engine.vector.pools import BufferPool

__all__ = ["merge_alone"]


def merge_alone(contribution: Contribution, pool: BufferPool | None = None) -> MergeResult:
    """Merge nodes that make up the whole tree, without a group. Same bits and digest as any number of members.

    Raises ContractError where nodes differ in layout or exact bytes, or nothing has weight.
    """
    nodes = contribution.nodes
    layout = agree(held_layouts(nodes.values()), contribution.step)
    head = merge_heads({r: head_of(node) for r, node in nodes.items()}, layout, contribution.num_sub_tasks)
    device = next(iter(nodes.values())).buckets[0].device if layout.buckets else torch.device("cpu")
    buckets = (pool or BufferPool()).take(layout, device)
    digests = [
        merge_part(
            {r: node.buckets[i] for r, node in nodes.items()},
            buckets[i],
            weight=head[0],
            num_sub_tasks=contribution.num_sub_tasks,
            chunk=bucket.chunk_numel,
        )
        for i, bucket in enumerate(layout.buckets)
    ]
    merged = finish(contribution.round, layout, buckets, head, digests, join_rows(own_rows(nodes), layout))
    return MergeResult(merged=merged, signals=contribution.signals, layout=layout)


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
