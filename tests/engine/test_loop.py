"""The loop over steps: left early, counted in epochs; values of a step outside its rounds; what an evaluation gathers."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from surefoot.contract import Run, Step
from surefoot.errors import ContractError
from surefoot_actors.engine.contract.run import RunOptions, run_training
from surefoot_actors.engine.ports import TrainerExit
from surefoot_actors.local_run.coordinator import LocalCoordinator

from .kit import points, results, run_local, run_scripted, same

DATA = points(50, 8)

Decide = Callable[[Run, Step], bool]


def fit(run: Run, loop: Any, data: Any = DATA, **tracked: Any) -> Iterator[Step]:
    """Train, and hand out each step at its end. `loop` makes the iterator that `for` gets."""
    model = nn.Linear(8, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    run.track(model=model, optimizer=optimizer, **tracked)
    for step in loop():
        for x, y in step.batches(data):
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            step.log(loss=loss)
        optimizer.step()
        yield step


class Elsewhere(LocalCoordinator):
    """A trainer that is not elected."""

    def finish(self, num_steps: int) -> None:
        super().finish(num_steps)
        raise TrainerExit


def one_step(run: Run, model: nn.Module, optimizer: Any, step: Step) -> None:
    for x, y in step.batches(DATA):
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        step.log(loss=loss)
    optimizer.step()


def make(run: Run) -> tuple[nn.Module, Any]:
    model = nn.Linear(8, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    run.track(model=model, optimizer=optimizer)
    return model, optimizer


def by_break(run: Run, after: list[str]) -> None:
    model, optimizer = make(run)
    for step in run.steps(100):
        one_step(run, model, optimizer, step)
        if step.number == 2:
            break
    after.append("after")


def by_stop(run: Run, after: list[str]) -> None:
    model, optimizer = make(run)
    for step in run.steps(100):
        one_step(run, model, optimizer, step)
        if step.number == 2:
            run.stop()
    after.append("after")


def by_return(run: Run, after: list[str]) -> None:
    model, optimizer = make(run)

    def loop() -> None:
        for step in run.steps(100):
            one_step(run, model, optimizer, step)
            if step.number == 2:
                return

    loop()
    after.append("after")


def before_a_round(run: Run, after: list[str]) -> None:
    model, optimizer = make(run)
    for step in run.steps(100):
        if step.number == 3:
            break
        one_step(run, model, optimizer, step)
    after.append("after")


def within_enumerate(run: Run, after: list[str]) -> None:
    model, optimizer = make(run)
    for i, step in enumerate(run.steps(100)):
        one_step(run, model, optimizer, step)
        if i == 2:
            break
    after.append("after")


def bar(steps: Iterator[Step]) -> Iterator[Step]:
    """As a progress bar does."""
    try:
        for step in steps:  # noqa: UP028
            yield step
    finally:
        sys.stderr.flush()


def within_a_bar(run: Run, after: list[str]) -> None:
    model, optimizer = make(run)
    for step in bar(bar(run.steps(100))):
        one_step(run, model, optimizer, step)
        if step.number == 2:
            break
    after.append("after")


def within_with_and_try(run: Run, after: list[str]) -> None:
    model, optimizer = make(run)
    with contextlib.suppress(KeyError):
        for step in run.steps(100):
            try:
                one_step(run, model, optimizer, step)
                if step.number == 2:
                    break
            finally:
                after[:] = []
    after.append("after")


def with_else(run: Run, after: list[str]) -> None:
    model, optimizer = make(run)
    for step in run.steps(100):
        one_step(run, model, optimizer, step)
        if step.number == 2:
            break
    else:
        after.append("never")
    after.append("after")


WAYS = [by_break, by_stop, by_return, before_a_round, within_enumerate, within_a_bar, within_with_and_try, with_else]


@pytest.mark.parametrize("way", WAYS)
def test_training_ends_where_the_loop_is_left(way: Any, tmp_path: Path) -> None:
    after: list[str] = []
    three = run_local(lambda run: [None for _ in fit(run, lambda: run.steps(3))][:0] or None, batch_size=8, sub_tasks=4)
    left = run_local(lambda run: way(run, after), batch_size=8, sub_tasks=4, checkpoint=str(tmp_path))
    assert after == ["after"]
    assert results(left) == results(three)
    # the end was saved: whoever goes on from there makes no step more
    again = run_local(lambda run: way(run, after), batch_size=8, sub_tasks=4, restore=str(tmp_path))
    assert same(again, left)
    assert after[-1] == "after"


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("traced", [False, True])
def test_a_trainer_that_is_not_elected_runs_nothing_after_the_loop(way: Any, traced: bool) -> None:
    after: list[str] = []
    options = RunOptions(batch_size=8, sub_tasks=4)
    tracer = (lambda *_: tracer) if traced else None  # type: ignore[has-type]
    before = sys.gettrace()
    sys.settrace(tracer)
    try:
        with pytest.raises(TrainerExit):
            run_training(lambda run: way(run, after), options, Elsewhere(4))
    finally:
        sys.settrace(before)
    assert after == []


def test_an_exception_is_no_way_to_end_training() -> None:
    class Own(Exception):
        pass

    def passing(run: Run) -> None:
        model, optimizer = make(run)
        for step in run.steps(5):
            one_step(run, model, optimizer, step)
            raise Own

    def caught(run: Run) -> None:
        with contextlib.suppress(Own):
            passing(run)

    with pytest.raises(Own):
        run_local(passing, batch_size=8, sub_tasks=4)
    with pytest.raises(ContractError, match=r"left in step 0 in a way that cannot be followed.*run.stop\(\)"):
        run_local(caught, batch_size=8, sub_tasks=4)


def test_an_iterator_that_is_kept_cannot_be_left() -> None:
    def train(run: Run) -> None:
        model, optimizer = make(run)
        steps = run.steps(5)
        for step in steps:
            one_step(run, model, optimizer, step)
            if step.number == 2:
                break
        assert steps is not None

    with pytest.raises(ContractError, match=r"left in step 2 in a way that cannot be followed"):
        run_local(train, batch_size=8, sub_tasks=4)


def test_an_inner_loop_that_was_left_is_told_where_the_outer_one_is_left() -> None:
    seen: list[str] = []

    def train(run: Run) -> None:
        model, _ = make(run)
        for step in run.steps(5):
            for x, y in step.batches(DATA):
                F.cross_entropy(model(x), y).backward()
                break
            break
        seen.append("after")

    with pytest.raises(
        ContractError, match=r"inner loop at test_loop.py:\d+ has not ended, but the loop over run.steps\(\) is left"
    ):
        run_local(train, batch_size=8, sub_tasks=4)
    assert not seen


def test_stopping_inside_an_inner_loop_is_a_local_decision() -> None:
    def train(run: Run) -> None:
        make(run)
        for step in run.steps(5):
            for _ in step.batches(DATA):
                run.stop()

    with pytest.raises(ContractError, match=r"run.stop\(\) is called at test_loop.py:\d+.*decide by step.merged"):
        run_local(train, batch_size=8, sub_tasks=4)


@pytest.mark.parametrize(("epochs", "batch_size", "steps"), [(2, 8, 13), (1, 64, 1), (3, 10, 15), (0, 8, 0)])
def test_epochs_are_passes_over_the_first_dataset(epochs: int, batch_size: int, steps: int, tmp_path: Path) -> None:
    told: list[tuple[int, int, bool]] = []

    def train(run: Run) -> None:
        for step in fit(run, lambda: run.steps(epochs=epochs)):
            assert run.epoch == step.epoch
            told.append((step.number, step.epoch, step.ends_epoch))

    sub_tasks = 2
    whole = run_local(train, batch_size=batch_size, sub_tasks=sub_tasks, checkpoint=str(tmp_path), checkpoint_every=4)
    assert len(whole.rows) == steps
    # a batch keeps its size: the epoch of a step is that of its first sample, and it ends with the batch that has its last
    samples = range(steps * batch_size)
    for number, epoch, ends in told:
        own = samples[number * batch_size : (number + 1) * batch_size]
        assert epoch == own[0] // 50
        assert ends == any(i % 50 == 49 for i in own)
    assert sum(ends for _, _, ends in told) == (epochs if batch_size < 50 else min(epochs, 1))
    if steps:
        assert same(whole, run_local(train, batch_size=batch_size, sub_tasks=sub_tasks, restore=str(tmp_path)))


def test_an_epoch_has_every_sample_once() -> None:
    seen: list[int] = []

    class Indices(torch.utils.data.Dataset[Any]):
        def __len__(self) -> int:
            return 24

        def __getitem__(self, i: int) -> Any:
            seen.append(i)
            return DATA[i]

    def train(run: Run) -> None:
        for _ in fit(run, lambda: run.steps(epochs=2), Indices()):
            pass

    run_local(train, batch_size=8, sub_tasks=4)
    assert sorted(seen[:24]) == sorted(seen[24:]) == list(range(24))
    assert seen[:24] != seen[24:]


@pytest.mark.parametrize("arguments", [(), (3, 2), (-1,), (None, -1), (2.5,), (True,)])
def test_steps_takes_one_number(arguments: tuple[Any, ...]) -> None:
    def train(run: Run) -> None:
        make(run)
        run.steps(arguments[0] if arguments else None, epochs=arguments[1] if len(arguments) > 1 else None)

    with pytest.raises(ContractError, match=r"test_loop.py:\d+: give the number of steps"):
        run_local(train, batch_size=8, sub_tasks=4)


def test_the_end_of_an_epoch_is_not_known_before_the_first_inner_loop() -> None:
    def train(run: Run) -> None:
        make(run)
        for step in run.steps(5):
            assert step.epoch == 0
            assert step.ends_epoch

    with pytest.raises(
        ContractError, match=r"step.ends_epoch at test_loop.py:\d+ is not known before the first inner loop"
    ):
        run_local(train, batch_size=8, sub_tasks=4)


def test_values_of_a_step_are_logged_outside_its_rounds() -> None:
    def train(run: Run) -> None:
        for step in fit(run, lambda: run.steps(3)):
            step.log(rate=0.1 * step.number, tensor=torch.tensor(2.0))
            assert step.merged["rate"] == pytest.approx(0.1 * step.number)

    rows = run_local(train, batch_size=8, sub_tasks=4).rows
    assert [row.result.values["rate"] for row in rows] == pytest.approx([0.0, 0.1, 0.2])
    assert rows[0].result.values["tensor"] == 2.0


def test_a_name_is_logged_once() -> None:
    def train(run: Run) -> None:
        for step in fit(run, lambda: run.steps(3)):
            step.log(loss=1.0)

    with pytest.raises(
        ContractError, match=r"'loss' is logged at test_loop.py:\d+, but step 0 has a value of that name"
    ):
        run_local(train, batch_size=8, sub_tasks=4)


# ---- gathering


def gathering(num: int, seen: list[Any]) -> Callable[[Run], None]:
    data = points(num, 8)

    def train(run: Run) -> None:
        model = nn.Linear(8, 3)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
        run.track(model=model, optimizer=optimizer)
        for step in run.steps(2):
            for x, y in step.batches(DATA):
                F.cross_entropy(model(x), y).backward()
                step.gather(sums=x.sum(1))
            optimizer.step()
            for x, y in step.evaluate(data):
                step.gather(out=model(x), label=y, half=x.bfloat16(), number=1.0, sums=x.sum(1))
            for x, _ in step.evaluate(data):
                step.gather(out=model(x))
                step.log(one=1.0)
            seen.append({name: rows.clone() for name, rows in step.gathered.items()})
            assert torch.allclose(step.gathered["out"], model(data.tensors[0]).detach(), atol=1e-5)
            assert torch.equal(step.gathered["out"], step.gathered["out@2"])
            assert torch.equal(step.gathered["label"], data.tensors[1])
            assert torch.equal(step.gathered["half"], data.tensors[0].bfloat16())
            assert step.gathered["sums"].shape == (16,)
            assert step.gathered["sums@1"].shape == (num,)

    return train


@pytest.mark.parametrize("num", [1, 3, 37])
def test_what_is_gathered_is_in_the_order_of_the_samples(num: int) -> None:
    seen: list[Any] = []
    train = gathering(num, seen)
    one = run_local(train, batch_size=16, sub_tasks=4)
    for order, parts in [
        ([3, 1, 0, 2], [[0, 1, 2], [3]]),
        ([0, 1, 2, 3], [[0], [1], [2], [3]]),
        ([2, 0, 3, 1], [[1, 3], [0, 2]]),
    ]:
        assert same(one, run_scripted(train, order=order, parts=parts, batch_size=16))
    assert len(seen) == 8
    for told in seen[2:]:
        assert all(torch.equal(rows, seen[0][name]) or torch.equal(rows, seen[1][name]) for name, rows in told.items())


def test_gathered_rows_are_part_of_the_ledger() -> None:
    def train(factor: float) -> Callable[[Run], None]:
        def training(run: Run) -> None:
            for step in fit(run, lambda: run.steps(1)):
                for x, _ in step.evaluate(DATA):
                    step.gather(x=x * factor)

        return training

    assert results(run_local(train(1.0), batch_size=8, sub_tasks=4)) != results(
        run_local(train(2.0), batch_size=8, sub_tasks=4)
    )


@pytest.mark.parametrize(
    ("gather", "words"),
    [
        (lambda step, i, x: step.gather(a=x[:, : 1 + i % 2]), "rows of"),
        (lambda step, i, x: step.gather(**({"a": x} if i % 2 else {"b": x})), "gather"),
        (lambda step, i, x: step.gather(a="text"), "gather a tensor"),
        (lambda step, i, x: (step.gather(a=x), step.gather(a=x)), "gathered twice"),
    ],
)
def test_rows_that_do_not_go_together_are_told(gather: Any, words: str) -> None:
    turn = iter(range(100))

    def train(run: Run) -> None:
        for step in fit(run, lambda: run.steps(1)):
            for x, _ in step.evaluate(DATA):
                gather(step, next(turn), x)

    with pytest.raises(ContractError, match=words):
        run_local(train, batch_size=8, sub_tasks=4)


def test_a_progress_bar_knows_how_many_steps_there_are() -> None:
    lengths: dict[str, list[int | None]] = {"steps": [], "epochs": []}

    def train(run: Run) -> None:
        model, optimizer = make(run)
        loop = run.steps(3) if run.config["of"] == "steps" else run.steps(epochs=1)
        told = lengths[run.config["of"]]
        with contextlib.suppress(TypeError):
            told.append(len(loop))  # type: ignore[arg-type]
        for step in loop:
            one_step(run, model, optimizer, step)
            told.append(len(loop))  # type: ignore[arg-type]

    for of in lengths:
        run_local(train, batch_size=20, sub_tasks=4, config={"of": of})
    # 50 samples are two and a half batches
    assert lengths == {"steps": [3, 3, 2, 1], "epochs": [3, 2, 1]}
