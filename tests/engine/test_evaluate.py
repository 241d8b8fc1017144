"""`step.evaluate`: exact means, and nothing left behind."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from surefoot.contract import Run
from surefoot.errors import ContractError

from .kit import Net, points, results, run_local, run_scripted

DATA = points()


def evaluate(num: int, found: dict[str, Any]) -> Any:
    data = TensorDataset(torch.arange(num, dtype=torch.float64))

    def train(run: Run) -> None:
        model = Net()
        run.track(model=model, optimizer=torch.optim.SGD(model.parameters(), lr=0.1))
        for step in run.steps(1):
            for _ in step.batches(DATA):
                pass
            sizes, values = [], []
            for (x,) in step.evaluate(data):
                sizes.append(len(x))
                values += x.tolist()
                step.log(x=x.mean(), odd=(x % 2).mean())
            found.update(sizes=sizes, values=values, merged=dict(step.merged))

    return train


@pytest.mark.parametrize("sub_tasks", [1, 4, 7, 8])
@pytest.mark.parametrize("num", [1, 3, 8, 57, 200])
def test_mean_is_over_all_samples_once(num: int, sub_tasks: int) -> None:
    found: dict[str, Any] = {}
    run_local(evaluate(num, found), batch_size=56, sub_tasks=sub_tasks)
    if num >= sub_tasks:
        assert found["values"] == list(range(num))
    assert max(found["sizes"]) <= 56 // sub_tasks
    assert found["merged"]["x"] == pytest.approx((num - 1) / 2)
    assert found["merged"]["odd"] == pytest.approx(num // 2 / num)


def test_order_and_parts_do_not_matter_even_with_empty_sub_tasks() -> None:
    for num in (3, 57):
        reference = run_local(evaluate(num, {}), batch_size=56, sub_tasks=8)
        for order, parts in [
            ([7, 6, 5, 4, 3, 2, 1, 0], [range(8)]),
            ([1, 0, 3, 2, 5, 4, 7, 6], [range(3), range(3, 8)]),
        ]:
            assert results(run_scripted(evaluate(num, {}), order=order, parts=parts, batch_size=56)) == results(
                reference
            )


def test_modes_buffers_gradients_and_random_streams_are_as_before() -> None:
    draws: list[list[float]] = []
    grads: list[Any] = []

    def train(run: Run, with_evaluation: bool) -> None:
        model = Net()
        model.body[3].eval()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        run.track(model=model, optimizer=optimizer)
        drawn = []
        for step in run.steps(3):
            for x, y in step.batches(DATA):
                drawn.append(torch.rand(()).item())
                nn.functional.cross_entropy(model(x), y).backward()
            modes = [m.training for m in model.modules()]
            before = {n: b.clone() for n, b in model.named_buffers()}
            gradients = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
            if with_evaluation:
                for x, _ in step.evaluate(DATA):
                    assert not model.training
                    assert not torch.is_grad_enabled()
                    model.body[1].running_mean += 1  # type: ignore[operator]
                    step.log(accuracy=model(x).sum())
            assert torch.is_grad_enabled()
            assert [m.training for m in model.modules()] == modes
            for name, buffer in model.named_buffers():
                assert torch.equal(buffer, before[name])
            grads.append(
                all(torch.equal(p.grad, gradients[n]) for n, p in model.named_parameters() if p.grad is not None)
            )
            optimizer.step()
        draws.append(drawn)

    runs = [run_local(lambda run, w=w: train(run, w), batch_size=56, sub_tasks=8) for w in (True, False)]  # type: ignore[misc]
    assert all(grads)
    assert draws[0] == draws[1]
    assert runs[0].digest == runs[1].digest


def test_second_round_logging_the_same_name_is_told_apart() -> None:
    def train(run: Run) -> None:
        model = nn.Linear(16, 2)
        run.track(model=model)
        for step in run.steps(1):
            for _ in step.batches(DATA):
                step.log(loss=1.0)
            for _ in step.evaluate(DATA):
                step.log(loss=2.0)

    row = run_local(train, batch_size=8, sub_tasks=4).rows[0]
    assert row.result.values == {"loss": 1.0, "loss@1": 2.0}
    assert (row.result.first_sample, row.result.num_samples) == (0, 8)


def test_weigh_in_an_evaluation_takes_the_place_of_the_number_of_samples() -> None:
    found: dict[str, float] = {}

    def train(run: Run) -> None:
        run.track(model=nn.Linear(16, 2))
        for step in run.steps(1):
            for x, _ in step.evaluate(DATA):
                weight = float(x.abs().sum())
                step.weigh(weight)
                step.log(x=x.sum() / weight)
            found.update(step.merged)

    run_local(train, batch_size=56, sub_tasks=8)
    x = DATA.tensors[0]
    assert found["x"] == pytest.approx(float(x.sum() / x.abs().sum()), rel=1e-5)


def test_what_is_wrong_with_the_dataset_by_then_is_what_is_told() -> None:
    """The round is open, and has set nothing yet: there is nothing to put back."""

    class Emptied(TensorDataset):
        length = 4

        def __len__(self) -> int:
            return self.length

    def train(run: Run) -> None:
        data, model = Emptied(torch.ones(4, 1)), Net()
        run.track(model=model, optimizer=torch.optim.SGD(model.parameters(), lr=0.1))
        for step in run.steps(1):
            for _ in step.batches(DATA):
                pass
            rows = step.evaluate(data)
            data.length = 0
            for _ in rows:
                pass

    with pytest.raises(ContractError, match="Emptied is empty"):
        run_local(train, batch_size=4, sub_tasks=2)
