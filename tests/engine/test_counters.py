"""Buffers that cannot be averaged: counters of layers that a sub-task skips, and what observes for quantization."""

from __future__ import annotations

import itertools
import warnings
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from surefoot.contract import Run
from surefoot.errors import ContractError
from surefoot_actors.engine.vector.buffers import BufferWatch
from surefoot_actors.engine.vector.exact_buffers import Rule, combine, first_conflict, unpack
from surefoot_actors.engine.vector.leaves import LeafMaker
from surefoot_actors.engine.vector.pools import LeafPool

from .kit import pack, points, run_local
from .test_gradients import keeps_the_promise

DATA = points()


def scalar(rule: Rule, written: bool, value: int) -> bytes:
    return pack([(rule, written, torch.tensor(value))])


# ---- one value out of many


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 3)), min_size=1, max_size=4), st.sampled_from(list(Rule)[1:4]))
def test_the_order_of_combining_does_not_matter(sub_tasks: list[tuple[bool, int]], rule: Rule) -> None:
    start = 1
    nodes = [scalar(rule, written, start + value if written else start) for written, value in sub_tasks]
    found = set()
    for order in itertools.permutations(nodes):
        try:
            result = order[0]
            for node in order[1:]:
                result = combine(result, node)
        except ContractError:
            found.add(None)
        else:
            found.add(result)
    assert len(found) == 1
    values = {start + value for written, value in sub_tasks if written}
    if rule is Rule.EQUAL and len(values) > 1:
        assert found == {None}
        return
    ((segment,),) = [unpack(r) for r in found if r is not None]
    choose = min if rule is Rule.SMALLEST else max
    everything = values | ({start} if rule is not Rule.EQUAL and len(values) < len(sub_tasks) else set())
    expected = choose(everything | {start}) if rule is not Rule.EQUAL and any(not w for w, _ in sub_tasks) else None
    got = int.from_bytes(segment.value, "little")
    assert got == (choose(values or {start}) if expected is None else expected)
    assert segment.written == any(written for written, _ in sub_tasks)


def test_the_buffer_that_differs_is_found() -> None:
    one = pack([(Rule.LARGEST, True, torch.tensor(1)), (Rule.EQUAL, True, torch.tensor([1, 2]))])
    other = pack([(Rule.LARGEST, True, torch.tensor(2)), (Rule.EQUAL, True, torch.tensor([1, 3]))])
    assert first_conflict(one, one) is None
    assert first_conflict(one, other) == 1
    with pytest.raises(ContractError, match="must end equal"):
        combine(one, other)


def test_an_extreme_of_floats() -> None:
    one = pack([(Rule.SMALLEST, True, torch.tensor([1.0, float("inf")])), (Rule.LARGEST, True, torch.tensor(2.5))])
    other = pack([(Rule.SMALLEST, True, torch.tensor([2.0, -3.0])), (Rule.LARGEST, False, torch.tensor(-1.0))])
    smallest, largest = unpack(combine(one, other))
    assert torch.frombuffer(bytearray(smallest.value), dtype=torch.float32).tolist() == [1.0, -3.0]
    assert torch.frombuffer(bytearray(largest.value), dtype=torch.float32).tolist() == [2.5]


# ---- layers that are skipped


class Deep(nn.Module):
    """Stochastic depth: a block with BatchNorm, and a counter of its own, that a sub-task may skip or take twice."""

    def __init__(self, momentum: float | None = 0.1, often: int = 1) -> None:
        super().__init__()
        self.first, self.norm, self.out = nn.Linear(16, 16), nn.BatchNorm1d(16, momentum=momentum), nn.Linear(16, 2)
        self.register_buffer("taken", torch.zeros((), dtype=torch.long))
        self.register_buffer("ever", torch.zeros((), dtype=torch.bool))
        self.often = often

    def forward(self, x: torch.Tensor) -> Any:
        if torch.rand(()) < 0.5:
            for _ in range(int(torch.randint(1, self.often + 1, ()))):
                x = x + self.norm(self.first(x))
            self.taken += 1  # type: ignore[operator]
            self.ever.fill_(True)  # type: ignore[operator]
        return self.out(x)


@pytest.mark.parametrize(("momentum", "often"), [(0.1, 1), (None, 1), (0.1, 3)])
def test_a_batchnorm_that_is_skipped(momentum: float | None, often: int, tmp_path: Any) -> None:
    counts: list[tuple[int, int]] = []

    def train(run: Run) -> None:
        model = Deep(momentum, often)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        run.track(model=model, optimizer=optimizer)
        for step in run.steps(4):
            for x, y in step.batches(DATA):
                F.cross_entropy(model(x), y).backward()
            optimizer.step()
        counts.append((int(model.norm.num_batches_tracked), int(model.taken)))  # type: ignore[arg-type, operator]

    keeps_the_promise(train, tmp_path, num_steps=4)
    assert len(set(counts)) == 1
    norm, taken = counts[0]
    assert 1 <= taken <= 4
    assert taken <= norm <= taken * often


def test_a_counter_of_data_is_refused_by_name() -> None:
    class Counting(nn.Linear):
        def __init__(self) -> None:
            super().__init__(16, 2)
            self.register_buffer("seen", torch.zeros((), dtype=torch.long))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.seen += int((x > 0).sum())  # type: ignore[operator]
            return super().forward(x)

    def train(run: Run) -> None:
        model = Counting()
        run.track(model=model)
        for step in run.steps(1):
            for x, y in step.batches(DATA):
                F.cross_entropy(model(x), y).backward()

    with pytest.raises(ContractError, match=r"ends differently in sub-task \d+ .*model\.seen"):
        run_local(train, batch_size=8, sub_tasks=4)


# ---- quantization


@pytest.mark.parametrize("how", ["default", "extremes"])
def test_quantization_aware_training(how: str, tmp_path: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import torch.ao.quantization as quantization

    found: list[Any] = []

    def prepared() -> nn.Module:
        model = nn.Sequential(
            quantization.QuantStub(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 2), quantization.DeQuantStub()
        ).train()
        if how == "default":
            model.qconfig = quantization.get_default_qat_qconfig("x86")  # type: ignore[assignment]
        else:
            fake = quantization.FakeQuantize.with_args(observer=quantization.MinMaxObserver)
            model.qconfig = quantization.QConfig(activation=fake, weight=fake)  # type: ignore[assignment]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            quantized: nn.Module = quantization.prepare_qat(model)
        return quantized

    def train(run: Run) -> None:
        model = prepared()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        run.track(model=model, optimizer=optimizer)
        seen = []
        for step in run.steps(4):
            for x, y in step.batches(DATA):
                seen.append(x.min())
                F.cross_entropy(model(x), y).backward()
            optimizer.step()
            if step.number == 2:
                model.apply(quantization.disable_observer)
        entry: Any = model[0].activation_post_process  # type: ignore[index]
        if len(seen) == 4 * run.sub_tasks:
            smallest = torch.stack(seen[: 3 * run.sub_tasks]).min().item()
            found.append((entry.activation_post_process.min_val.item(), smallest))
        scale, zero_point = entry.calculate_qparams()
        assert torch.equal(entry.scale, scale.view(1))
        assert torch.equal(entry.zero_point, zero_point.view(1).int())

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        keeps_the_promise(train, tmp_path, num_steps=4)
    if how == "extremes":
        assert found[0][0] == found[0][1]


def test_buffers_that_grow_on_a_trainer_that_computed_nothing() -> None:
    """It is given the merge of others' sub-tasks, in which an observer has become one value a channel."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import torch.ao.quantization as quantization
    observer: Any = quantization.PerChannelMinMaxObserver
    fake: Any = quantization.FakeQuantize

    class Observed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(16, 2)
            self.fake = fake(observer=observer, qscheme=torch.per_channel_affine, ch_axis=0)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return F.linear(x, self.fake(self.linear.weight))

    kept: list[Any] = []

    def train(run: Any) -> None:
        model = Observed()
        run.track(model=model)
        for step in run.steps(1):
            for x, y in step.batches(DATA):
                F.cross_entropy(model(x), y).backward()
            kept.append((run.coordinator.merged(), model))

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        run_local(train, batch_size=8, sub_tasks=4)
        merged, model = kept[0]
        fresh = Observed()
        named = [("model", fresh)]
        parameters = list(fresh.named_parameters(prefix="model"))
        leaves = LeafMaker(parameters, BufferWatch(named), torch.device("cpu"), LeafPool())
        leaves.open(merged.layout.description[0])
        leaves.deliver(merged, in_place=False, before={})
    assert fresh.fake.scale.shape == (2,)
    for (name, own), (_, other) in zip(fresh.named_buffers(), model.named_buffers(), strict=True):
        assert torch.equal(own, other), name
