"""The order of samples: permutations in no memory to speak of, and orders that users give."""

from __future__ import annotations

import itertools
import os
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import (
    BatchSampler,
    DistributedSampler,
    RandomSampler,
    Sampler,
    SequentialSampler,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)

from surefoot.contract import Run
from surefoot.errors import ContractError
from surefoot_actors.engine.data.orders import Orders
from surefoot_actors.engine.data.sampler import Sampler as Stream
from surefoot_actors.engine.data.shuffle import LARGEST_LIST, Shuffle, permute, uniform

from .kit import run_local, same
from .loading import loaded

KEY = bytes(range(16))


# ---- permutations


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 5000) | st.sampled_from([2**k + d for k in range(2, 14) for d in (-1, 0, 1)]),
    st.binary(min_size=16, max_size=16),
)
def test_it_is_a_permutation(length: int, key: bytes) -> None:
    found = permute(np.arange(length, dtype=np.uint64), length, key)
    assert np.array_equal(np.sort(found), np.arange(length))


@settings(max_examples=50, deadline=None)
@given(st.integers(LARGEST_LIST + 1, 2**62), st.integers(0, 2**61), st.integers(1, 200))
def test_large_permutations_stay_inside_and_repeat_nothing(length: int, start: int, num: int) -> None:
    start = start % (length - num)
    found = permute(np.arange(start, start + num, dtype=np.uint64), length, KEY)
    assert found.max() < length
    assert len(set(found.tolist())) == num


@pytest.mark.parametrize("length", [1, 2, LARGEST_LIST, LARGEST_LIST + 1, 200_003])
def test_an_epoch_has_every_sample_once_however_it_is_asked_for(length: int) -> None:
    whole = Shuffle(7).indices(length, 3, 0, length)
    assert torch.equal(whole.sort().values, torch.arange(length))
    shuffle = Shuffle(7)
    for start in (0, length // 3, max(0, length - 70)):
        stop = min(start + 70, length)
        assert torch.equal(shuffle.indices(length, 3, start, stop), whole[start:stop])
    if length > 2:
        assert not torch.equal(whole, Shuffle(7).indices(length, 4, 0, length))
        assert not torch.equal(whole, Shuffle(8).indices(length, 3, 0, length))


def test_large_permutations_look_random() -> None:
    """Where positions go is spread evenly, whatever came before, and tells nothing of another epoch or of a neighbour."""
    length, num = 1_000_003, 100_000
    epochs = [Shuffle(5).indices(length, e, 0, num).double() for e in range(3)]
    for found in epochs:
        counts = torch.histc(found, bins=100, min=0, max=length)
        chi_square = ((counts - num / 100) ** 2 / (num / 100)).sum()
        assert 60 < chi_square < 150  # 99 degrees of freedom
        assert abs(correlation(found, torch.arange(float(num)))) < 0.01
        assert abs(correlation(found[1:], found[:-1])) < 0.01
        assert abs(correlation(found % 2, torch.arange(float(num)) % 2)) < 0.01
    for one, other in itertools.combinations(epochs, 2):
        assert abs(correlation(one, other)) < 0.01
        assert (one == other).sum() < 5


def test_small_domains_of_the_network_are_evenly_used() -> None:
    """Every one of the 24 orders of 4, about as often."""
    orders = Counter(
        tuple(permute(np.arange(4, dtype=np.uint64), 4, np.random.RandomState(i).bytes(16)).tolist())
        for i in range(2400)
    )
    assert len(orders) >= 12
    first = Counter(order[0] for order, n in orders.items() for _ in range(n))
    assert all(500 < n < 700 for n in first.values())


def correlation(one: torch.Tensor, other: torch.Tensor) -> float:
    return float(torch.corrcoef(torch.stack([one.double(), other.double()]))[0, 1])


def test_a_billion_samples_take_no_memory() -> None:
    stream = Stream(seed=1, batch_size=64, sub_tasks=2)
    seen = torch.cat([stream.indices(10**9, step, v) for step in (0, 1, 10**9, 10**12) for v in (0, 1)])
    assert len(set(seen.tolist())) > 250
    assert 0 <= int(seen.min()) <= int(seen.max()) < 10**9
    assert sum(t.nbytes for t in stream.order._shuffle._kept.values()) < 1 << 20  # type: ignore[attr-defined]


def test_orders_are_pinned() -> None:
    """They are part of the promise: a change here breaks every job that is resumed after an upgrade."""
    assert Shuffle(7).indices(1000, 2, 10, 14).tolist() == SMALL
    assert Shuffle(7).indices(10**7, 2, 10, 14).tolist() == LARGE
    assert (uniform(KEY, 5, 8) * 1000).round(3).tolist() == UNIFORM


# ---- samplers


DATA = TensorDataset(torch.arange(40.0))
WEIGHTS = torch.arange(40).double().clamp(min=0)


class Mine(Sampler[int]):
    """Shuffles by numpy's global generator, in turn with epochs."""

    def __init__(self) -> None:
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self) -> Any:
        return iter((np.random.permutation(20) + 10 * (self.epoch % 2)).tolist())

    def __len__(self) -> int:
        return 20


def by_seed_and_epoch(seed: int, epoch: int) -> torch.Tensor:
    return torch.randperm(40, generator=torch.Generator().manual_seed(seed * 1000 + epoch))


GIVEN: dict[str, tuple[Callable[[], Any], int]] = {
    "weights": (lambda: WEIGHTS, 40),
    "weights as a list": (lambda: WEIGHTS.tolist(), 40),
    "weights as an array": (lambda: WEIGHTS.numpy(), 40),
    "sample numbers": (lambda: [5, 6, 7, 7, 7, 39, 0], 7),
    "numbers as a tensor": (lambda: torch.arange(10) * 4, 10),
    "range": (lambda: range(38, 1, -3), 13),
    "function": (lambda: by_seed_and_epoch, 40),
    "lambda": (lambda: lambda seed, epoch: by_seed_and_epoch(seed, epoch)[:11], 11),
    "global generators": (lambda: lambda seed, epoch: torch.randperm(40)[:9], 9),
    "sequential": (lambda: SequentialSampler(DATA), 40),
    "random": (lambda: RandomSampler(DATA), 40),
    "random with replacement": (lambda: RandomSampler(DATA, replacement=True, num_samples=15), 15),
    "random with a generator": (lambda: RandomSampler(DATA, generator=torch.Generator(), num_samples=15), 15),
    "subset": (lambda: SubsetRandomSampler(range(5, 25)), 20),
    "weighted": (lambda: WeightedRandomSampler(WEIGHTS.tolist(), 30), 30),
    "weighted without replacement": (lambda: WeightedRandomSampler(WEIGHTS.tolist(), 20, replacement=False), 20),
    "mine": (lambda: Mine(), 20),
}


def drawn(make: Callable[[], Any], data_workers: int = 0, num_steps: int = 30) -> list[float]:
    parts = loaded(
        DATA,
        lambda step: list,
        data_workers=data_workers,
        num_steps=num_steps,
        sampler=make(),
        use=lambda b: [x.item() for (x,) in b],
    )
    return list(itertools.chain.from_iterable(parts))


@pytest.mark.parametrize("kind", GIVEN)
def test_a_sampler_is_a_function_of_seed_and_epoch(kind: str) -> None:
    make, an_epoch = GIVEN[kind]
    torch.manual_seed(1)
    one = drawn(make)
    torch.manual_seed(2)
    np.random.seed(5)
    assert drawn(make) == one
    given = make()
    if isinstance(given, torch.Tensor | list | range | np.ndarray) and np.asarray(given).dtype.kind != "f":
        expected = [float(i) for i in given]
        assert one == (expected * 100)[: len(one)]
    elif "weight" in kind:
        assert 0 not in one, "a weight of 0"
        assert sum(one[:200]) / 200 > 22
    else:
        epochs = [one[at : at + an_epoch] for at in range(0, len(one) - an_epoch + 1, an_epoch)]
        if kind not in ("random with replacement",):
            assert all(len(set(epoch)) == an_epoch for epoch in epochs)
        assert (epochs[0] == epochs[1]) == (kind == "sequential")
    if kind == "mine":
        assert max(one[:20]) == 19
        assert min(one[20:40]) == 10
    if kind == "random":
        assert one == drawn(lambda: None)


def test_sequential_is_the_datasets_order() -> None:
    assert drawn(lambda: SequentialSampler(DATA))[:90] == [float(i % 40) for i in range(90)]


@pytest.mark.parametrize("kind", ["weights", "lambda", "mine", "subset"])
def test_data_workers_take_the_same_samples(kind: str) -> None:
    make, _ = GIVEN[kind]
    assert drawn(make, 2, 6) == drawn(make, 0, 6)


def impure(seed: int, epoch: int) -> Any:
    return torch.randperm(40, generator=torch.Generator().manual_seed(next(COUNT)))


COUNT = itertools.count()
BAD: dict[str, tuple[Callable[[], Any], str]] = {
    "impure": (lambda: impure, "other samples when it is asked for the same epoch again"),
    "impure by the clock": (lambda: lambda seed, epoch: list(os.urandom(5)), "pure function of"),
    "too few weights": (lambda: torch.ones(39), "39 weights, the dataset 40 samples"),
    "weights below 0": (lambda: [1.0] * 39 + [-1.0], "at least 0"),
    "weights of nothing": (lambda: np.zeros(40), "one of them above 0"),
    "weights that are NaN": (lambda: torch.full((40,), float("nan")), "finite"),
    "weights of two dimensions": (lambda: torch.ones(40, 2), r"shape \(40, 2\)"),
    "numbers of two dimensions": (lambda: torch.ones(40, 2, dtype=torch.int64), r"shape \(40, 2\)"),
    "out of range": (lambda: [3, 40], "sample 40, but the dataset has 40"),
    "below 0": (lambda: range(-1, 4), "sample -1"),
    "out of range later": (lambda: lambda seed, epoch: [3, 39 + epoch], "sample 40, but"),
    "no samples": (lambda: lambda seed, epoch: [], "no samples"),
    "an empty list": (lambda: torch.ones(0, dtype=torch.int64), "no samples"),
    "epochs of other lengths": (lambda: lambda seed, epoch: range(5 + epoch), "6 samples in epoch 1 and 5 in the first"),
    "floats": (lambda: lambda seed, epoch: torch.rand(3), "float32"),
    "distributed": (lambda: DistributedSampler(DATA, 2, 0), "leave it out"),
    "batches": (lambda: BatchSampler(SequentialSampler(DATA), 4, False), "batch_size"),
    "iterator": (lambda: iter(range(40)), "range_iterator"),
    "text": (lambda: "sequential", "give weights"),
    "number": (lambda: 7, "give weights"),
}  # fmt: skip


@pytest.mark.parametrize("kind", BAD)
def test_what_is_no_order_is_refused_at_its_line(kind: str) -> None:
    make, words = BAD[kind]
    with pytest.raises(ContractError, match=words) as caught:
        drawn(make)
    assert "here.py:1" in str(caught.value)


def test_weights_draw_in_proportion() -> None:
    weights = torch.tensor([1.0, 0.0, 2.0, 5.0])
    order = Orders(3).of(weights, "here")
    found = Counter(order.indices(4, epoch, 0, 4).tolist()[i] for epoch in range(2000) for i in range(4))
    assert found[1] == 0
    assert abs(found[0] / 1000 - 1) < 0.15
    assert abs(found[2] / 2000 - 1) < 0.1
    assert abs(found[3] / 5000 - 1) < 0.05


def test_a_sampler_that_the_loop_changes_is_seen() -> None:
    weights = torch.zeros(40)

    def before(step: int) -> None:
        weights.zero_()
        weights[step] = 1

    for data_workers in (0, 1):
        seen = loaded(
            DATA,
            lambda step: list,
            data_workers=data_workers,
            before=before,
            sampler=weights,
            use=lambda b: b[0][0].item(),
            num_steps=4,
        )
        assert seen == [0, 0, 1, 1, 2, 2, 3, 3]


def test_training_with_a_sampler_is_the_same_in_one_piece_and_restored(tmp_path: Any) -> None:
    stop = None

    def train(run: Run) -> None:
        model = torch.nn.Linear(1, 1)
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)
        run.track(model=model, optimizer=optimizer)
        for step in run.steps(8):
            if step.number == stop:
                raise InterruptedError
            for (x,) in step.batches(DATA, sampler=WeightedRandomSampler(WEIGHTS.tolist(), 25, replacement=False)):
                loss = model(x[:, None]).square().mean()
                loss.backward()
                step.log(loss=loss)
            optimizer.step()
            for (x,) in step.batches(DATA, sampler=lambda seed, epoch: torch.randperm(40)[:7]):
                step.log(x=x.mean())

    whole = run_local(train, batch_size=8, sub_tasks=2)
    stop = 5
    with pytest.raises(InterruptedError):
        run_local(train, batch_size=8, sub_tasks=2, checkpoint=str(tmp_path), checkpoint_every=1)
    stop = None
    assert same(whole, run_local(train, batch_size=8, sub_tasks=2, restore=str(tmp_path), data_workers=1))


SMALL = [423, 555, 586, 331]
LARGE = [7292209, 1133033, 351121, 7947844]
UNIFORM = [938.191, 663.897, 953.918]
