"""Chunks, layouts and digests, and adding in tree order: pure functions."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from surefoot.errors import ContractError
from surefoot_actors.engine.exchange.plan import Plan
from surefoot_actors.engine.exchange.reduce import merge_heads, merge_part, slice_of
from surefoot_actors.engine.types import Bucket, Range
from surefoot_actors.engine.vector.digest import chunk_digests, chunk_numel, make_layout, merged_digest
from surefoot_actors.protocol.tree import cover

from .members import alone, layout, leaf

_DTYPES = st.sampled_from([torch.float32, torch.float64])


def _tree(leaves: list[torch.Tensor], lo: int, hi: int) -> torch.Tensor:
    """DESIGN's recursion, word for word."""
    if hi - lo == 1:
        return leaves[lo]
    m = lo + max(1 << k for k in range(32) if 1 << k < hi - lo)
    return _tree(leaves, lo, m) + _tree(leaves, m, hi)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_adds_in_the_order_of_the_tree_whatever_nodes_there_are(data: st.DataObject) -> None:
    num = data.draw(st.integers(1, 13))
    owners = data.draw(st.lists(st.integers(0, 3), min_size=num, max_size=num))
    dtype, numel = data.draw(_DTYPES), data.draw(st.sampled_from([1, 999, 70_000]))
    generator = torch.Generator().manual_seed(num)
    leaves = [torch.randn(numel, generator=generator, dtype=dtype) * 10 ** (v % 5) for v in range(num)]
    covers = [cover(sum(1 << v for v, owner in enumerate(owners) if owner == rank), num) for rank in range(4)]
    parts = {node: _tree(leaves, *node) for nodes in covers for node in nodes}
    before = {node: part.clone() for node, part in parts.items()}
    weight = data.draw(st.sampled_from([1.0, 3.0, 0.1]))
    out = torch.empty(numel, dtype=dtype)
    chunk = data.draw(st.sampled_from([1, 256, 4096])) if numel < 1000 else 4096
    digests = merge_part(parts, out, weight=weight, num_sub_tasks=num, chunk=chunk)
    assert torch.equal(out, _tree(leaves, 0, num) / weight)
    assert digests == chunk_digests(out, chunk)
    assert all(torch.equal(parts[node], before[node]) for node in parts)


def test_another_association_would_show() -> None:
    leaves = [leaf(layout(), v).buckets[0] for v in range(7)]
    assert not torch.equal(_tree(leaves, 0, 7), sum(leaves[1:], leaves[0]))


@given(numel=st.integers(0, 3_000_000), dtype=_DTYPES, size=st.integers(1, 9))
def test_slices_are_whole_chunks_and_make_up_the_bucket(numel: int, dtype: torch.dtype, size: int) -> None:
    bucket = Bucket(dtype=dtype, numel=numel, chunk_numel=chunk_numel(numel, dtype))
    bounds = [slice_of(bucket, rank, size) for rank in range(size)]
    assert bounds[0][0] == 0
    assert bounds[-1][1] == numel
    assert all(a[1] == b[0] for a, b in pairwise(bounds))
    assert all(start % bucket.chunk_numel == 0 or start == numel for start, _ in bounds)


@given(numel=st.integers(0, 1 << 32), dtype=_DTYPES)
def test_a_chunk_is_a_power_of_two_of_16_to_256_kib(numel: int, dtype: torch.dtype) -> None:
    chunk_bytes = chunk_numel(numel, dtype) * dtype.itemsize
    assert 1 << 14 <= chunk_bytes <= 1 << 18
    assert chunk_bytes.bit_count() == 1


@given(st.lists(st.integers(0, 2), min_size=1, max_size=9), st.booleans())
def test_both_ends_list_the_same_sections_within_the_message(owners: list[int], other: bool) -> None:
    covers = tuple(cover(sum(1 << v for v, o in enumerate(owners) if o == r), len(owners)) for r in range(3))
    plan = Plan(layout("tiny" if other else "plain"), covers)
    for source in range(3):
        for to in range(3):
            end = plan.header_bytes(source)
            for section in plan.sections(source, to):
                assert section.offset >= end
                assert section.offset % 16 == 0
                end = section.offset + section.num_bytes
            assert not plan.single_message or end <= plan.message_bytes(source, to)


def test_chunk_digests_hash_each_chunk() -> None:
    flat = torch.arange(10, dtype=torch.float32)
    data = flat.numpy().tobytes()
    assert chunk_digests(flat, 4) == b"".join(xxhash.xxh3_128_digest(data[at : at + 16]) for at in (0, 16, 32))
    assert chunk_digests(torch.empty(0), 4) == b""


def test_the_digest_covers_everything_merged() -> None:
    usual = {"scalars": (0.5,), "weight": 8.0, "presence": 3, "num_presence": 9, "exact": b"ab"}
    others = [{"scalars": (0.25,)}, {"weight": 7.0}, {"presence": 257}, {"exact": b"ac"}]
    digests = {merged_digest([b"x" * 16], **{**usual, **other}) for other in [{}, *others]}  # type: ignore[arg-type]
    assert len(digests | {merged_digest([b"y" * 16], **usual)}) == 6  # type: ignore[arg-type]


def test_the_signature_leaves_out_source_lines_only() -> None:
    assert layout(line=1).signature == layout(line=2).signature
    assert layout().signature != layout("other").signature
    kind = {"buckets": [(torch.float32, 3)], "num_presence": 1, "scalars": [], "exact_bytes": 0, "description": []}
    assert make_layout(**kind).signature != make_layout(**kind, identity=b"x").signature  # type: ignore[arg-type]


def test_nothing_with_weight_is_an_error() -> None:
    heads = {Range(v, v + 1): (0.0, (1.0,), 0, b"") for v in range(2)}
    with pytest.raises(ContractError, match="weight 0"):
        merge_heads(heads, layout(), 2)


def test_the_merge_is_private_even_for_one_sub_task() -> None:
    merged, single = alone(1), leaf(layout(), 0)
    assert all(torch.equal(a, b / single.weight) for a, b in zip(merged.buckets, single.buckets, strict=True))
    assert merged.scalars == {"loss": single.scalars[0] / single.weight}
