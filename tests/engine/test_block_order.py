"""Samples in blocks: a permutation, blocks whole, the same whoever asks, for whatever part of it."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import Dataset, IterableDataset

from surefoot.contract import Run
from surefoot.errors import ContractError
from surefoot_actors.engine.data.block_order import ByBlocks, Size, block_sizes
from surefoot_actors.engine.data.partition import TrainingPartition
from surefoot_actors.engine.data.prefetch import BatchKey
from surefoot_actors.engine.data.sampler import Sampler
from surefoot_actors.engine.data.shuffle import LARGEST_LIST

from .kit import points, results, run_local, run_scripted

BATCH = 12
ANY_SIZES = st.lists(st.integers(0, 40), min_size=1, max_size=30).filter(sum).map(lambda s: np.array(s, dtype=np.int64))


def all_of(size: Size, length: int, seed: int, epoch: int) -> list[int]:
    return ByBlocks(size, seed).indices(length, epoch, 0, length).tolist()


def extents(size: Size, length: int) -> list[range]:
    if isinstance(size, int):
        return [range(a, min(a + size, length)) for a in range(0, length, size)]
    ends = np.cumsum(size)
    return [range(int(b - n), int(b)) for b, n in zip(ends, size, strict=True)]


def assert_blocks_whole(found: list[int], size: Size, length: int) -> None:
    assert sorted(found) == list(range(length))
    blocks = [b for b in extents(size, length) if b]
    of = {sample: i for i, b in enumerate(blocks) for sample in b}
    changes = sum(of[one] != of[other] for one, other in itertools.pairwise(found))
    assert changes == len(blocks) - 1


@settings(max_examples=150, deadline=None)
@given(st.integers(1, 400), st.integers(1, 450), st.integers(0, 9), st.integers(0, 5))
def test_equal_blocks(length: int, size: int, seed: int, epoch: int) -> None:
    assert_blocks_whole(all_of(size, length, seed, epoch), size, length)


@settings(max_examples=150, deadline=None)
@given(ANY_SIZES, st.integers(0, 9), st.integers(0, 5))
def test_blocks_of_any_sizes(sizes: Any, seed: int, epoch: int) -> None:
    assert_blocks_whole(all_of(sizes, int(sizes.sum()), seed, epoch), sizes, int(sizes.sum()))


@settings(max_examples=150, deadline=None)
@given(ANY_SIZES | st.integers(1, 50), st.data())
def test_any_part_of_an_epoch_is_as_in_the_whole(size: Any, data: st.DataObject) -> None:
    length = data.draw(st.integers(1, 300)) if isinstance(size, int) else int(size.sum())
    whole = all_of(size, length, 3, 1)
    order = ByBlocks(size, 3)
    for _ in range(4):
        start = data.draw(st.integers(0, length))
        stop = data.draw(st.integers(start, length))
        if stop > start:
            assert order.indices(length, 1, start, stop).tolist() == whole[start:stop]


@settings(max_examples=60, deadline=None)
@given(ANY_SIZES | st.integers(1, 50), st.sampled_from([1, 2, 3, 4, 6, 12]), st.permutations(range(12)))
def test_batches_do_not_depend_on_sub_tasks_or_who_asks_first(size: Any, sub_tasks: int, turns: list[int]) -> None:
    length = 100 if isinstance(size, int) else int(size.sum())

    def batches(sub_tasks: int, order: list[int]) -> list[list[int]]:
        whole = TrainingPartition(Sampler(seed=5, batch_size=BATCH, sub_tasks=sub_tasks), sub_tasks)
        partition = whole.by_blocks(None, size, "here.py:1")
        found = {
            (step, v): partition.indices(length, BatchKey(step, 0, v, 0)).tolist()
            for step in range(10)
            for v in sorted(range(sub_tasks), key=order.index)
        }
        return [[i for v in range(sub_tasks) for i in found[step, v]] for step in range(10)]

    assert batches(sub_tasks, turns) == batches(1, list(range(12)))


def test_epochs_and_seeds_differ_in_both_orders() -> None:
    def order_of_blocks(found: list[int]) -> list[int]:
        return list(dict.fromkeys(i // 50 for i in found))

    def inside(found: list[int]) -> list[int]:
        return [i for i in found if i < 50]

    runs = [all_of(50, 1000, 1, 0), all_of(50, 1000, 1, 1), all_of(50, 1000, 2, 0)]
    for part in (order_of_blocks, inside):
        assert len({tuple(part(run)) for run in runs}) == len(runs)
    # nor do blocks have one order between them
    assert [i for i in runs[0] if i < 50] != [i - 50 for i in runs[0] if 50 <= i < 100]


def test_a_large_dataset_of_large_blocks() -> None:
    size, length = LARGEST_LIST * 2 + 1, 10**9
    order = ByBlocks(size, 1)
    found = order.indices(length, 0, 5_000, 9_000)
    assert len(set((found // size).tolist())) == 1
    assert len(set(found.tolist())) == 4_000
    across = order.indices(length, 0, size - 10, size + 10) // size
    assert len(set(across.tolist())) == 2


# ---- which blocks


class Sharded(Dataset[Any]):
    samples_per_shard = np.array([7, 20, 0, 13])

    def __len__(self) -> int:
        return 40

    def __getitem__(self, index: int) -> torch.Tensor:
        return torch.tensor([float(index)])


class Indexable(IterableDataset[Any]):
    """As mosaicml-streaming's: gone through, or indexed."""

    lengths = (25, 15)

    def __len__(self) -> int:
        return 40

    def __getitem__(self, index: int) -> torch.Tensor:
        return torch.tensor([float(index)])

    def __iter__(self) -> Any:
        raise AssertionError("nobody asks for it")


def seen(dataset: Any, **how: Any) -> list[float]:
    """Return the samples of a run, in order."""
    found: list[float] = []

    def train(run: Run) -> None:
        model = torch.nn.Linear(1, 1)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        run.track(model=model, optimizer=optimizer)
        for step in run.steps(5):
            for x in step.batches(dataset, **how):
                model(x).sum().backward()
                step.gather(x=x)
            found.extend(step.gathered["x"].flatten().tolist())
            optimizer.step()

    run_local(train, batch_size=8, sub_tasks=4)
    return found


def test_a_dataset_that_says_its_shards() -> None:
    assert_blocks_whole([int(i) for i in seen(Sharded(), shuffle="blocks")], Sharded.samples_per_shard, 40)


def test_an_indexable_stream() -> None:
    assert sorted(seen(Indexable())) == list(range(40))
    assert_blocks_whole([int(i) for i in seen(Indexable(), shuffle="blocks")], np.array([25, 15]), 40)
    assert_blocks_whole([int(i) for i in seen(Indexable(), shuffle="blocks", block_size=9)], 9, 40)


class LengthAlone(IterableDataset[Any]):
    def __len__(self) -> int:
        return 40

    def __iter__(self) -> Any:
        return iter(range(40))


@pytest.mark.parametrize(
    ("dataset", "how", "words"),
    [
        (LengthAlone(), {}, "LengthAlone is not a map-style dataset"),
        (points(), {"shuffle": "blocks"}, "TensorDataset has none of samples_per_shard and lengths; give block_size="),
        (points(), {"shuffle": "blocks", "block_size": [100, 100]}, "the 2 blocks have 200 samples, the dataset 203"),
        (points(), {"shuffle": "blocks", "block_size": 0}, "block_size is 0"),
        (points(), {"shuffle": "blocks", "block_size": True}, "block_size is True"),
        (points(), {"shuffle": "blocks", "block_size": [1.5]}, "block_size is [1.5]"),
        (points(), {"shuffle": "blocks", "block_size": "7"}, "block_size is '7'"),
        (points(), {"block_size": 7}, 'block_size is of use with shuffle="blocks" alone'),
        (points(), {"shuffle": "blocks", "block_size": 7, "sampler": range(3)}, "are two orders of the samples"),
        (points(), {"shuffle": False}, "shuffle=False; it is"),
    ],
)
def test_what_is_refused(dataset: Any, how: dict[str, Any], words: str) -> None:
    with pytest.raises(ContractError) as caught:
        seen(dataset, **how)
    assert words in str(caught.value)
    assert "test_block_order.py:" in str(caught.value)


def test_sizes_that_datasets_tell() -> None:
    assert block_sizes(Sharded(), None, "").tolist() == [7, 20, 0, 13]  # type: ignore[union-attr]
    assert block_sizes(Sharded(), 5, "") == 5
    assert block_sizes(Indexable(), None, "").tolist() == [25, 15]  # type: ignore[union-attr]


def test_training_by_blocks_is_the_same_in_any_order_and_with_workers() -> None:
    data = points(100)

    def train(run: Run) -> None:
        model = torch.nn.Linear(16, 2)
        optimizer = torch.optim.AdamW(model.parameters())
        run.track(model=model, optimizer=optimizer)
        for step in run.steps(6):
            for x, y in step.batches(data, shuffle="blocks", block_size=30):
                loss = torch.nn.functional.cross_entropy(model(x), y)
                loss.backward()
                step.log(loss=loss)
            optimizer.step()

    whole = run_local(train, batch_size=24, sub_tasks=4)
    other = run_scripted(train, batch_size=24, order=[3, 1, 0, 2], parts=[[0], [1, 2], [3]])
    assert results(whole) == results(other)
    assert whole.digest == other.digest
