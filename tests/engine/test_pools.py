"""Pools: buffers come back to those who take their kind again, and nothing piles up where layouts change for ever."""

from __future__ import annotations

import gc

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from surefoot_actors.engine.types import Layout, Merged
from surefoot_actors.engine.vector.buffers import BufferWatch
from surefoot_actors.engine.vector.digest import make_layout
from surefoot_actors.engine.vector.leaves import LeafMaker, Logged
from surefoot_actors.engine.vector.pools import MOST_LAYOUTS, BufferPool, LeafPool

CPU = torch.device("cpu")


def layout(*sizes: int) -> Layout:
    return make_layout(
        buckets=[(torch.float32, size) for size in sizes],
        num_presence=1,
        scalars=(),
        exact_bytes=0,
        description=(f"grad a float32{list(sizes)}",),
    )


def merged(of: Layout, buckets: list[torch.Tensor]) -> Merged:
    return Merged(round=0, layout=of, buckets=buckets, weight=1.0, scalars={}, presence=1, exact=b"", digest=b"")


def held(pool: LeafPool | BufferPool) -> int:
    """Bytes that nobody uses."""
    found = 0
    for free in pool._free.values():
        for one in free:
            found += sum(t.nbytes for t in one) if isinstance(one, list) else one.nbytes
    return found


@settings(deadline=None)
@given(st.lists(st.integers(1, 50), min_size=1, max_size=60), st.integers(1, 3))
def test_what_is_held_is_of_the_newest_layouts(sizes: list[int], at_once: int) -> None:
    leaves, vectors = LeafPool(), BufferPool()
    for size in sizes:
        of = layout(100, size)
        for _ in range(at_once):
            vectors.give(merged(of, vectors.take(of, CPU)))
        taken = [leaves.take(of, CPU) for _ in range(at_once)]
        for buckets in taken:
            leaves.give(buckets)
    newest = list(dict.fromkeys(reversed(sizes)))[:MOST_LAYOUTS]
    assert held(leaves) <= 4 * at_once * (100 + sum(newest))
    assert held(vectors) <= 4 * sum(100 + size for size in newest)


def test_a_buffer_that_grows_with_every_step_leaves_nothing_behind() -> None:
    leaves, vectors = LeafPool(), BufferPool()
    for step in range(1, 500):
        of = layout(step)
        leaves.give(leaves.take(of, CPU))
        vectors.give(merged(of, vectors.take(of, CPU)))
    assert held(leaves) <= 4 * MOST_LAYOUTS * 500
    assert held(vectors) <= 4 * MOST_LAYOUTS * 500


def test_layouts_that_take_turns_get_the_same_memory_again() -> None:
    leaves, vectors = LeafPool(), BufferPool()
    turns = [layout(10 + i, 1000) for i in range(MOST_LAYOUTS)]
    addresses: list[set[int]] = []
    for _ in range(3):
        seen = set()
        for of in turns:
            leaf, vector = leaves.take(of, CPU), vectors.take(of, CPU)
            seen |= {t.data_ptr() for t in (*leaf, *vector)}
            leaves.give(leaf)
            vectors.give(merged(of, vector))
        addresses.append(seen)
    assert addresses[0] == addresses[1] == addresses[2]


def test_a_model_that_is_unfrozen_layer_by_layer_leaves_no_old_leaves_behind() -> None:
    model = nn.ModuleList([nn.Linear(1000, 1) for _ in range(40)])
    model.requires_grad_(False)
    pool = LeafPool()
    leaves = LeafMaker(list(model.named_parameters()), BufferWatch([("model", model)]), CPU, pool)
    size = sum(p.nbytes for p in model.parameters())
    gc.collect()
    before = held_by_process()
    for layer in reversed(model):
        layer.requires_grad_(True)
        for sub_task in range(4):
            leaves.open("data")
            leaves.begin()
            leaves.drop(leaves.make(sub_task, Logged({}, {}, 1.0)))
    gc.collect()
    assert held_by_process() - before <= (MOST_LAYOUTS + 1) * size


def held_by_process() -> int:
    """Bytes of all flat buffers that anything holds."""
    return sum(t.nbytes for t in gc.get_objects() if type(t) is torch.Tensor and t.dim() == 1 and t._base is None)
