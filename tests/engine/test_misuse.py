"""Code that breaks the contract gets an error that names the line and the mend."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from surefoot.contract import Run, Step
from surefoot.errors import ContractError
from surefoot_actors.engine.contract.step_record import NotLoggedError

from .kit import points, run_local

DATA = points()


def start(run: Run, model: nn.Module | None = None) -> tuple[nn.Module, torch.optim.Optimizer]:
    model = nn.Linear(16, 2) if model is None else model
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    run.track(model=model, optimizer=optimizer)
    return model, optimizer


def refused(train: Callable[[Run], None], *words: str, sub_tasks: int = 4) -> None:
    with pytest.raises(ContractError) as caught:
        run_local(train, batch_size=8, sub_tasks=sub_tasks)
    for word in words:
        assert word in str(caught.value), str(caught.value)


def in_step(
    body: Callable[[Run, Step, nn.Module, torch.optim.Optimizer], None], num_steps: int = 1
) -> Callable[[Run], None]:
    def train(run: Run) -> None:
        model, optimizer = start(run)
        for step in run.steps(num_steps):
            body(run, step, model, optimizer)

    return train


def backward(model: nn.Module, batch: Any) -> torch.Tensor:
    loss = F.cross_entropy(model(batch[0]), batch[1])
    loss.backward()
    return loss


# ---- optimizers


def test_step_inside_the_loop() -> None:
    def body(run: Run, step: Step, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        for batch in step.batches(DATA):
            backward(model, batch)
            optimizer.step()

    refused(in_step(body), "optimizer.step() at test_misuse.py:", "move it after the loop")


def test_break_then_step() -> None:
    def body(run: Run, step: Step, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        for batch in step.batches(DATA):
            backward(model, batch)
            break
        optimizer.step()

    refused(in_step(body), "left early by break", "test_misuse.py:")


def test_break_then_next_step_or_round() -> None:
    def body(run: Run, step: Step, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        for _ in step.batches(DATA):
            break

    def again(run: Run, step: Step, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        for _ in step.batches(DATA):
            break
        for _ in step.evaluate(DATA):
            pass

    refused(in_step(body), "has not ended, but the step ends", "take the break out")
    refused(in_step(again), "has not ended, but another begins at test_misuse.py:")


def test_nested_loops() -> None:
    def body(run: Run, step: Step, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        for _ in step.batches(DATA):
            for _ in step.batches(DATA):
                pass

    def zipped(run: Run, step: Step, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        for _ in zip(step.batches(DATA), step.batches(DATA), strict=True):
            pass

    refused(in_step(body), "do not nest inner loops")
    refused(in_step(zipped), "do not nest inner loops")


def test_step_without_a_merge() -> None:
    def body(run: Run, step: Step, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        backward(model, DATA[:4])
        optimizer.step()

    def evaluated(run: Run, step: Step, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        for _ in step.evaluate(DATA):
            pass
        optimizer.step()

    refused(in_step(body), "no merge was delivered in this step")
    refused(in_step(evaluated), "no merge was delivered in this step")


def test_closure_and_lbfgs() -> None:
    def body(run: Run, step: Step, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        for batch in step.batches(DATA):
            backward(model, batch)
        optimizer.step(lambda: 0.0)

    def lbfgs(run: Run) -> None:
        run.track(optimizer=torch.optim.LBFGS(nn.Linear(2, 2).parameters()))

    refused(in_step(body), "closure", "test_misuse.py:")
    refused(lbfgs, "LBFGS", "closure")


def test_optimizer_is_free_again_after_the_run() -> None:
    kept: list[Any] = []

    def body(run: Run, step: Step, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        for batch in step.batches(DATA):
            backward(model, batch)
        kept[:] = [optimizer]

    run_local(in_step(body), batch_size=8, sub_tasks=2)
    kept[0].step()


# ---- logging and weighing


def test_gather_and_weigh_outside_a_sub_task() -> None:
    def before(run: Run, step: Step, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        step.gather(rows=torch.zeros(1))

    def after(run: Run, step: Step, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        for _ in step.batches(DATA):
            pass
        step.weigh(2)

    refused(in_step(before), "step.gather() at test_misuse.py:", "outside a sub-task")
    refused(in_step(after), "step.weigh() at test_misuse.py:", "outside a sub-task")


def test_log_in_some_sub_tasks_only() -> None:
    def body(run: Run, step: Step, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        for number, _ in enumerate(step.batches(DATA)):
            if number == 2:
                step.log(extra=1.0)

    refused(in_step(body), "sub-task 1 has 'log extra  # test_misuse.py:", "log the same names")


def test_log_in_some_batches_of_an_evaluation_only() -> None:
    def within(run: Run, step: Step, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        for number, _ in enumerate(step.evaluate(DATA)):
            if number == 1:
                step.log(extra=1.0)

    refused(in_step(within), "'extra' (test_misuse.py:", "log the same names for every batch")


@pytest.mark.parametrize(
    ("value", "words"),
    [(torch.ones(3), "shape (3,)"), ("high", "a str"), (torch.ones((), dtype=torch.complex64), "real")],
)
def test_log_of_no_number(value: Any, words: str) -> None:
    def body(run: Run, step: Step, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        for _ in step.batches(DATA):
            step.log(loss=value)

    refused(in_step(body), "test_misuse.py:", words)


def test_log_twice_in_a_sub_task() -> None:
    def body(run: Run, step: Step, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        for _ in step.batches(DATA):
            step.log(loss=1.0)
            step.log(loss=2.0)

    refused(in_step(body), "'loss' is logged twice")


@pytest.mark.parametrize("weight", [-1, float("nan"), float("inf")])
def test_impossible_weight(weight: float) -> None:
    def body(run: Run, step: Step, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        for _ in step.batches(DATA):
            step.weigh(weight)

    refused(in_step(body), "at least 0", "test_misuse.py:")


def test_weights_all_zero() -> None:
    def body(run: Run, step: Step, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        for _ in step.batches(DATA):
            step.weigh(0)

    refused(in_step(body), "weight 0")


# ---- the loop over steps


def test_no_steps() -> None:
    def none(run: Run) -> None:
        start(run)

    refused(none, "without calling run.steps()")


def test_steps_twice_and_negative() -> None:
    def twice(run: Run) -> None:
        start(run)
        for step in run.steps(1):
            for _ in step.batches(DATA):
                pass
        run.steps(1)

    def negative(run: Run) -> None:
        start(run)
        run.steps(-1)

    refused(twice, "run.steps() is called a second time at test_misuse.py:")
    refused(negative, "run.steps(-1) at test_misuse.py:")


def test_step_without_a_round_and_stale_step() -> None:
    def empty(run: Run) -> None:
        start(run)
        for _ in run.steps(1):
            pass

    def stale(run: Run) -> None:
        start(run)
        old: Any = None
        for step in run.steps(2):
            for _ in (old or step).batches(DATA):
                pass
            old = step

    refused(empty, "step 0 had no inner loop")
    refused(stale, "step 0 is used at test_misuse.py:", "it is over")


def test_every_zero() -> None:
    def body(run: Run, step: Step, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        step.every(0)

    refused(in_step(body), "step.every(0)")


# ---- tracking


def test_tracking() -> None:
    def nothing(run: Run) -> None:
        run.steps(1)

    def empty(run: Run) -> None:
        run.track()

    def stateless(run: Run) -> None:
        run.track(counter=["a"])

    def twice(run: Run) -> None:
        start(run)
        start(run)

    def same(run: Run) -> None:
        model = nn.Linear(2, 2)
        run.track(one=model, two=model)

    refused(nothing, "nothing is tracked", "run.track(model=..., optimizer=...)")
    refused(empty, "given nothing")
    refused(stateless, "run.track(counter=...)", "a list", "no state_dict")
    refused(twice, "run.track() is called a second time")
    refused(same, "the same object twice, as one and as two")


# ---- datasets


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Iterator[int]:
        return iter(range(10))


class NoLength(Dataset[Any]):
    def __getitem__(self, index: int) -> int:
        return index


@pytest.mark.parametrize(
    ("dataset", "words"),
    [
        (Stream(), "not a map-style dataset"),
        (iter([1, 2]), "not a map-style dataset"),
        (NoLength(), "not a map-style dataset"),
        (DataLoader(DATA), "give its dataset"),
        ([], "is empty"),
        (TensorDataset(torch.zeros(0, 3)), "is empty"),
    ],
)
@pytest.mark.parametrize("loop", ["batches", "evaluate"])
def test_datasets(dataset: Any, words: str, loop: str) -> None:
    def body(run: Run, step: Step, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        for _ in getattr(step, loop)(dataset):
            pass

    refused(in_step(body), "test_misuse.py:", words)


# ---- leaves


def test_sparse_gradient() -> None:
    def train(run: Run) -> None:
        model = nn.Embedding(10, 2, sparse=True)
        run.track(model=model, optimizer=torch.optim.SparseAdam(model.parameters()))
        for step in run.steps(1):
            for x, _ in step.batches(DATA):
                model(x[:, 0].abs().long()).sum().backward()

    refused(train, "model.weight has a sparse gradient", "sparse=False")


class Counting(nn.Module):
    """Counts what depends on the data in an integer buffer."""

    count: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))
        self.layer = nn.Linear(16, 2)

    def forward(self, x: torch.Tensor) -> Any:
        self.count += (x > 0).sum()
        return self.layer(x)


class Caching(nn.Module):
    def __init__(self, shape: tuple[int, ...] | None) -> None:
        super().__init__()
        self.layer = nn.Linear(16, 2)
        if shape is not None:
            self.register_buffer("cache", torch.zeros(shape))

    def forward(self, x: torch.Tensor) -> Any:
        self.register_buffer("cache", x.detach().clone())
        return self.layer(x)


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (Counting, ("model.count", "must leave it equal", "in sub-task 1 than")),
        (lambda: Caching(None), ("model.cache", "before run.steps()")),
        (lambda: Caching((3, 16)), ("model.cache changed from torch.float32 (3, 16)", "keep their shape")),
    ],
)
def test_buffers(build: Callable[[], nn.Module], words: tuple[str, ...]) -> None:
    def train(run: Run) -> None:
        model, _ = start(run, build())
        for step in run.steps(1):
            for batch in step.batches(DATA):
                backward(model, batch)

    refused(train, *words)


def test_parameters_frozen_in_some_sub_tasks_only() -> None:
    def body(run: Run, step: Step, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        for number, batch in enumerate(step.batches(DATA)):
            model.bias.requires_grad_(number != 3)  # type: ignore[union-attr, operator]
            backward(model, batch)

    refused(in_step(body), "grad model.bias", "of the same shapes")


def test_state_that_is_not_finite() -> None:
    def body(run: Run, step: Step, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        for batch in step.batches(DATA):
            (backward(model, batch) * float("nan"))
        for parameter in model.parameters():
            parameter.grad = torch.full_like(parameter, float("nan"))
        optimizer.step()

    refused(in_step(body), "model.weight is not finite after step 0")


def test_errors_of_the_user_pass_unchanged() -> None:
    def body(run: Run, step: Step, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        for _ in step.batches(DATA):
            raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        run_local(in_step(body), batch_size=8, sub_tasks=2)
    assert torch.is_grad_enabled()


def test_error_inside_an_evaluation_leaves_modes_and_gradients_as_they_were() -> None:
    kept: list[nn.Module] = []

    def body(run: Run, step: Step, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        kept.append(model)
        for _ in step.evaluate(DATA):
            raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        run_local(in_step(body), batch_size=8, sub_tasks=2)
    assert torch.is_grad_enabled()
    assert kept[0].training


def test_a_merged_value_that_is_not_there_is_told_with_what_is() -> None:
    def before(run: Run) -> None:
        start(run)
        for step in run.steps(1):
            step.merged["loss"]

    def other(run: Run) -> None:
        start(run)
        for step in run.steps(1):
            for _ in step.batches(DATA):
                step.log(acc=1.0, top5=2.0)
            for _ in step.batches(DATA):
                pass
            assert step.merged.get("loss", 5.0) == 5.0
            assert "loss" not in step.merged
            assert dict(step.merged) == {"acc": 1.0, "top5": 2.0}
            step.merged["loss"]

    refused(before, "step.merged['loss'] at test_misuse.py:", "no inner loop of step 0 has ended yet")
    refused(
        other,
        "step.merged['loss'] at test_misuse.py:",
        "in step 0 the loop at test_misuse.py:",
        "logged acc, top5",
        "logged nothing",
    )
    with pytest.raises(KeyError):
        run_local(before, batch_size=8)


def test_the_error_of_a_merged_value_travels() -> None:
    error = pickle.loads(pickle.dumps(NotLoggedError("step.merged['x']: told")))
    assert (type(error), str(error)) == (NotLoggedError, "step.merged['x']: told")
