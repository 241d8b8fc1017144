"""The promise on one machine: the same bits in whatever order and by whatever parts sub-tasks are computed and folded."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from surefoot.contract import Run

from .kit import Net, classify, points, run_local, run_scripted, same

Train = Callable[[Run], None]

_DATA = points()


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Linear(16, 16)
        self.two = nn.Linear(16, 16)
        self.two.weight = self.one.weight
        self.out = nn.Linear(16, 2)

    def forward(self, x: torch.Tensor) -> Any:
        return self.out(self.two(self.one(x).relu()))


class Sometimes(nn.Module):
    """One branch runs in some sub-tasks only, one never, one is frozen."""

    def __init__(self) -> None:
        super().__init__()
        self.always, self.some, self.never, self.frozen = (nn.Linear(16, 2) for _ in range(4))
        self.frozen.requires_grad_(False)

    def forward(self, x: torch.Tensor) -> Any:
        out = self.always(x) + self.frozen(x)
        return out + self.some(x) if torch.rand(()) < 0.5 else out


class ChannelsLast(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3).to(memory_format=torch.channels_last)
        self.out = nn.Linear(16, 2)

    def forward(self, x: torch.Tensor) -> Any:
        return self.out(self.conv(x.view(-1, 1, 4, 4)).flatten(1))


class Waves(nn.Module):
    """A complex parameter and one in double precision."""

    def __init__(self) -> None:
        super().__init__()
        self.wave = nn.Parameter(torch.randn(9, dtype=torch.complex64))
        self.bias = nn.Parameter(torch.zeros(2, dtype=torch.float64))
        self.out = nn.Linear(16, 2)

    def forward(self, x: torch.Tensor) -> Any:
        return self.out(torch.fft.irfft(torch.fft.rfft(x) * self.wave, n=16)) + self.bias.float()


def schedule(run: Run) -> None:
    model = Net()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.05, total_steps=8)
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=True)
    run.track(model=model, optimizer=optimizer, scheduler=scheduler, average=average)
    for step in run.steps(5):
        for x, y in step.batches(_DATA):
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            step.log(loss=loss)
        nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        optimizer.step()
        scheduler.step()
        average.update_parameters(model)


def gan(run: Run) -> None:
    generator, critic = nn.Linear(4, 16), nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 1))
    g_optimizer = torch.optim.Adam(generator.parameters(), lr=1e-2)
    c_optimizer = torch.optim.Adam(critic.parameters(), lr=1e-2)
    run.track(generator=generator, critic=critic, g_optimizer=g_optimizer, c_optimizer=c_optimizer)
    for step in run.steps(4):
        for x, _ in step.batches(_DATA):
            loss = F.softplus(-critic(x)).mean() + F.softplus(critic(generator(torch.randn(len(x), 4)).detach())).mean()
            loss.backward()
            step.log(critic=loss)
        c_optimizer.step()
        critic.requires_grad_(False)
        for x, _ in step.batches(_DATA):
            loss = F.softplus(-critic(generator(torch.randn(len(x), 4)))).mean()
            loss.backward()
            step.log(generator=loss)
        g_optimizer.step()
        critic.requires_grad_(True)


def weighted(run: Run) -> None:
    model = nn.Linear(16, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    run.track(model=model, optimizer=optimizer)
    for step in run.steps(4):
        for x, y in step.batches(_DATA):
            keep = x[:, 0] > 0
            step.weigh(int(keep.sum()))
            loss = F.cross_entropy(model(x[keep]), y[keep])
            loss.backward()
            step.log(loss=loss)
        optimizer.step()


def two_optimizers(run: Run) -> None:
    model = Net()
    matrices = [p for p in model.parameters() if p.ndim == 2]
    others = [p for p in model.parameters() if p.ndim != 2]
    one, two = torch.optim.SGD(matrices, lr=0.1, momentum=0.9, nesterov=True), torch.optim.RMSprop(others, lr=1e-3)
    run.track(model=model, one=one, two=two)
    for step in run.steps(4):
        for x, y in step.batches(_DATA):
            F.cross_entropy(model(x), y).backward()
        one.step()
        two.step()


def autocast(run: Run) -> None:
    model = Net()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    scaler = torch.amp.GradScaler("cpu", init_scale=128.0)
    run.track(model=model, optimizer=optimizer, scaler=scaler)
    for step in run.steps(4):
        for x, y in step.batches(_DATA):
            with torch.autocast("cpu", dtype=torch.bfloat16):
                loss = F.cross_entropy(model(x), y)
            scaler.scale(loss).backward()
            step.log(loss=loss)
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        scaler.step(optimizer)
        scaler.update()


def half(run: Run) -> None:
    model = Net().to(torch.bfloat16)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    run.track(model=model, optimizer=optimizer)
    for step in run.steps(4):
        for x, y in step.batches(_DATA):
            loss = F.cross_entropy(model(x.bfloat16()), y)
            loss.backward()
            step.log(loss=loss)
        optimizer.step()


def only_optimizer(run: Run) -> None:
    """Parameters that no module holds."""
    weight = torch.zeros(16, 2, requires_grad=True)
    optimizer = torch.optim.Adagrad([weight], lr=0.1)
    run.track(optimizer=optimizer)
    for step in run.steps(3):
        for x, y in step.batches(_DATA):
            F.cross_entropy(x @ weight, y).backward()
        optimizer.step()


TRAINS: dict[str, Train] = {
    "batchnorm_dropout": classify(),
    "tied": classify(Tied),
    "absent_and_frozen": classify(Sometimes),
    "channels_last": classify(ChannelsLast),
    "complex_and_double": classify(Waves),
    "momentum": classify(optimize=lambda m: torch.optim.SGD(m.parameters(), lr=0.1, momentum=0.9)),
    "schedule_clip_average": schedule,
    "gan": gan,
    "weighted": weighted,
    "two_optimizers": two_optimizers,
    "autocast_scaler": autocast,
    "bf16": half,
    "only_optimizer": only_optimizer,
}

ORDERS = {
    7: [
        ([6, 0, 5, 1, 4, 2, 3], [range(7)]),
        ([0, 1, 2, 3, 4, 5, 6], [range(3), range(3, 7)]),
        ([3, 2, 1, 0, 6, 5, 4], [[0, 5, 6], [1, 2], [3, 4]]),
    ],
    8: [
        ([7, 6, 5, 4, 3, 2, 1, 0], [range(8)]),
        ([0, 4, 1, 5, 2, 6, 3, 7], [range(4), range(4, 8)]),
        ([2, 3, 0, 1, 7, 5, 6, 4], [[0, 1, 2], [3, 4, 5], [6, 7]]),
    ],
}


@pytest.mark.parametrize("name", TRAINS)
@pytest.mark.parametrize("sub_tasks", ORDERS)
def test_bits_do_not_depend_on_order_or_parts(name: str, sub_tasks: int) -> None:
    train = TRAINS[name]
    reference = run_local(train, batch_size=56, sub_tasks=sub_tasks)
    assert len({row.result.digest for row in reference.rows}) == len(reference.rows)
    for order, parts in ORDERS[sub_tasks]:
        assert same(reference, run_scripted(train, order=order, parts=parts, batch_size=56)), (order, parts)


def test_runs_differ_by_seed_and_by_number_of_sub_tasks() -> None:
    train = classify()
    runs = [run_local(train, batch_size=56, sub_tasks=v, seed=s) for v, s in ((7, 0), (8, 0), (8, 1))]
    assert len({run.digest for run in runs}) == 3


def test_gradient_is_the_mean_over_the_batch() -> None:
    """Sub-tasks of equal size without buffers and noise: the merge is the full batch's gradient, up to rounding."""
    gradients = {}

    def train(run: Run) -> None:
        model = nn.Linear(16, 2)
        run.track(model=model, optimizer=torch.optim.SGD(model.parameters(), lr=0.1))
        for step in run.steps(1):
            for x, y in step.batches(_DATA):
                F.cross_entropy(model(x), y).backward()
            gradients[run.sub_tasks] = model.weight.grad.clone()  # type: ignore[union-attr]

    for sub_tasks in (1, 7, 8):
        run_local(train, batch_size=56, sub_tasks=sub_tasks)
    torch.testing.assert_close(gradients[7], gradients[1])
    torch.testing.assert_close(gradients[8], gradients[1])


def test_absent_everywhere_stays_none_and_frozen_is_not_touched() -> None:
    seen: list[Any] = []

    def train(run: Run) -> None:
        model = Sometimes()
        model.frozen.weight.grad = torch.ones_like(model.frozen.weight)
        frozen = model.frozen.weight.detach().clone()
        never = model.never.weight.detach().clone()
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.5)
        run.track(model=model, optimizer=optimizer)
        for step in run.steps(3):
            for x, y in step.batches(_DATA):
                F.cross_entropy(model(x), y).backward()
            seen.append((model.never.weight.grad, model.frozen.weight.grad, model.some.weight.grad))
            optimizer.step()
        assert torch.equal(model.never.weight, never)
        assert torch.equal(model.frozen.weight, frozen)

    run_local(train, batch_size=56, sub_tasks=8)
    assert [never for never, _, _ in seen] == [None] * 3
    assert [frozen for _, frozen, _ in seen] == [None] * 3
    assert any(some is not None for _, _, some in seen)


def test_absent_in_some_counts_as_zero_there() -> None:
    found: list[torch.Tensor] = []

    def train(run: Run) -> None:
        weight = nn.ParameterList([nn.Parameter(torch.zeros(())), nn.Parameter(torch.zeros(()))])
        optimizer = torch.optim.SGD(weight.parameters(), lr=1.0)
        run.track(weight=weight, optimizer=optimizer)
        for step in run.steps(1):
            for number, _ in enumerate(step.batches(_DATA)):
                (weight[0] + weight[1] * 4 if number == 2 else weight[0]).backward()
            found.extend(p.grad for p in weight)  # type: ignore[misc]

    run_local(train, batch_size=8, sub_tasks=4)
    assert [f.item() for f in found] == [1.0, 1.0]


def test_batchnorm_statistics_are_the_mean_of_one_update_each() -> None:
    found: dict[str, Any] = {}
    data = points()

    def train(run: Run) -> None:
        norm = nn.BatchNorm1d(16)
        run.track(norm=norm, optimizer=torch.optim.SGD(norm.parameters(), lr=0.1))
        for step in run.steps(1):
            means = []
            for x, _ in step.batches(data):
                norm(x).sum().backward()
                means.append(x.mean(0))
            found["expected"] = 0.1 * torch.stack(means).mean(0)
            found["is"] = norm.running_mean.clone()  # type: ignore[union-attr]
            found["count"] = norm.num_batches_tracked.item()  # type: ignore[union-attr, operator]

    run_local(train, batch_size=56, sub_tasks=7)
    torch.testing.assert_close(found["is"], found["expected"])
    assert found["count"] == 1


def test_merged_weighted_mean_is_the_mean_over_tokens() -> None:
    found: dict[str, Any] = {}

    def train(run: Run) -> None:
        weight = nn.Parameter(torch.zeros(()))
        optimizer = torch.optim.SGD([weight], lr=1.0)
        run.track(optimizer=optimizer)
        for step in run.steps(1):
            numbers: dict[float, int] = {}
            for x, _ in step.batches(_DATA):
                v = numbers.setdefault(x.sum().item(), len(numbers))
                step.weigh(v)
                (weight * (float("nan") if v == 0 else float(v))).backward()
                step.log(v=float("nan") if v == 0 else v)
            found["grad"], found["v"] = weight.grad.item(), step.merged["v"]  # type: ignore[union-attr]

    run_local(train, batch_size=8, sub_tasks=4)
    assert found == {"grad": 14 / 6, "v": 14 / 6} or found["v"] == pytest.approx(14 / 6)


def test_delivered_gradients_do_not_share_memory_with_each_other() -> None:
    """Custom backward passes may hand two parameters the same memory; clipping it would scale it twice."""

    def train(run: Run) -> None:
        a, b = nn.Parameter(torch.zeros(4)), nn.Parameter(torch.zeros(2, 2))
        optimizer = torch.optim.SGD([a, b], lr=1.0)
        run.track(optimizer=optimizer)
        for step in run.steps(1):
            for _ in step.batches(_DATA):
                shared = torch.ones(4)
                a.grad, b.grad = shared, shared.view(2, 2)
            assert a.grad is not None
            assert b.grad is not None
            assert a.grad.untyped_storage().data_ptr() != b.grad.untyped_storage().data_ptr()

    run_local(train, batch_size=8, sub_tasks=4)


def test_settings_of_the_process_are_restored() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run_local(classify(num_steps=1), batch_size=8, sub_tasks=2)
    assert torch.equal(torch.get_rng_state(), before)
    assert not torch.are_deterministic_algorithms_enabled()
    assert torch.is_grad_enabled()
