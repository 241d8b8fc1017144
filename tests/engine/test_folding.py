"""NodeStore: the fold's bits, memory and what it may write."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from surefoot_actors.engine.types import Layout, Node, Range
from surefoot_actors.engine.vector.digest import make_layout
from surefoot_actors.engine.vector.folding import NodeStore
from surefoot_actors.engine.vector.pools import LeafPool
from surefoot_actors.protocol import tree

CPU = torch.device("cpu")
LAYOUT = make_layout(
    buckets=[(torch.float32, 5), (torch.float64, 3)],
    num_presence=2,
    scalars=("loss",),
    exact_bytes=1,
    description=("grad a float32[5]", "grad b float64[3]", "log loss  # train.py:3"),
)


def leaf(v: int, pool: LeafPool, layout: Layout = LAYOUT, exact: bytes = b"x") -> Node:
    generator = torch.Generator().manual_seed(v)
    buckets = pool.take(layout, CPU)
    for bucket in buckets:
        bucket.copy_(torch.randn(bucket.shape, generator=generator) * 10.0**v)
    return Node(
        range=Range(v, v + 1),
        layout=layout,
        buckets=buckets,
        weight=0.1 * v,
        scalars=(0.3 * v,),
        presence=1 << v % 2,
        exact=exact,
    )


def expected(num: int) -> Node:
    """Fold from the definition."""

    def add(a: Node, b: Node) -> Node:
        return Node(
            range=Range(a.range.lo, b.range.hi),
            layout=LAYOUT,
            buckets=[x + y for x, y in zip(a.buckets, b.buckets, strict=True)],
            weight=a.weight + b.weight,
            scalars=(a.scalars[0] + b.scalars[0],),
            presence=a.presence | b.presence,
            exact=b"x",
        )

    return tree.fold({Range(v, v + 1): leaf(v, LeafPool()) for v in range(num)}, add, num)


def equal(one: Node, other: Node) -> bool:
    same = (one.range, one.weight, one.scalars, one.presence, one.exact) == (
        other.range, other.weight, other.scalars, other.presence, other.exact
    )  # fmt: skip
    return same and all(torch.equal(a, b) for a, b in zip(one.buckets, other.buckets, strict=True))


@settings(deadline=None)
@given(st.integers(1, 12).flatmap(lambda n: st.permutations(range(n))), st.sets(st.integers(0, 12)))
def test_fold_is_the_trees_in_any_order_shown_at_any_time(order: list[int], shown_at: set[int]) -> None:
    pool = LeafPool()
    store = NodeStore(len(order), pool)
    held = 0
    shown: list[tuple[Node, list[torch.Tensor]]] = []
    for turn, v in enumerate(order):
        store.put(leaf(v, pool))
        held |= 1 << v
        assert store.held == held
        nodes = store.nodes() if turn in shown_at else {}
        if nodes:
            assert tuple(nodes) == tree.cover(held, len(order))
        shown += [(node, [b.clone() for b in node.buckets]) for node in nodes.values()]
    (whole,) = store.nodes().values()
    assert equal(whole, expected(len(order)))
    for node, before in shown:  # perhaps still on its way to a peer
        assert all(torch.equal(a, b) for a, b in zip(node.buckets, before, strict=True))


def test_memory_grows_with_the_logarithm_of_the_span() -> None:
    pool = LeafPool()
    for _ in range(3):
        store = NodeStore(64, pool)
        for v in range(64):
            store.put(leaf(v, pool))
        store.nodes()
        store.clear()
    assert sum(len(free) for free in pool._free.values()) <= 2 * 8


def test_a_node_already_held_is_ignored() -> None:
    pool = LeafPool()
    store = NodeStore(4, pool)
    for v in (0, 1, 0, 1, 2):
        store.put(leaf(v, pool))
    assert store.held == 0b111
    assert tuple(store.nodes()) == (Range(0, 2), Range(2, 3))


def test_clear_gives_up_all_nodes() -> None:
    store = NodeStore(8, LeafPool())
    for v in (0, 1, 2, 5):
        store.put(leaf(v, LeafPool()))
    assert store.held == 0b100111
    store.clear()
    assert store.held == 0
    assert not store.nodes()


def test_shown_buffers_are_recycled_at_the_commit_only() -> None:
    pool = LeafPool()
    store = NodeStore(2, pool)
    store.put(leaf(0, pool))
    store.nodes()
    store.put(leaf(1, pool))  # folds with a node that was shown
    assert len(pool._free[CPU, torch.float32, 5]) == 0 if (CPU, torch.float32, 5) in pool._free else True
    store.clear()
    assert len(pool._free[CPU, torch.float32, 5]) == 2


def test_operands_keep_their_sides() -> None:
    """The sum of two NaNs has the first one's bits, whichever was there first."""
    layout = make_layout(
        buckets=[(torch.float32, 1)], num_presence=1, scalars=(), exact_bytes=0, description=("grad a float32[1]",)
    )
    sums = set()
    for order in ((0, 1), (1, 0)):
        for show in (False, True):
            store = NodeStore(2, LeafPool())
            for v in order:
                bits = torch.tensor([0x7FC00001 + v], dtype=torch.int32).view(torch.float32)
                store.put(
                    Node(
                        range=Range(v, v + 1),
                        layout=layout,
                        buckets=[bits],
                        weight=1.0,
                        scalars=(),
                        presence=1,
                        exact=b"",
                    )
                )
                if show:
                    store.nodes()
            (node,) = store.nodes().values()
            sums.add(node.buckets[0].view(torch.int32).item())
    assert len(sums) == 1
