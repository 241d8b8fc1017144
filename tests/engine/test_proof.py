"""What is carried from one sub-task to the next is found in the first step, whatever carries it."""

from __future__ import annotations

import re
from collections import Counter, defaultdict, deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from surefoot.contract import Run
from surefoot.errors import ContractError

from .kit import points, run_local

DATA = points(64, 8)


class Remembering(nn.Module):
    """Keeps its hidden state, as stateful recurrent nets do."""

    def __init__(self) -> None:
        super().__init__()
        self.cell, self.out = nn.RNNCell(8, 8), nn.Linear(8, 3)
        self.hidden = torch.zeros(4, 8)

    def forward(self, x: torch.Tensor) -> Any:
        self.hidden = self.cell(x, self.hidden.detach())
        return self.out(self.hidden)


class Normed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.out, self.mean = nn.Linear(8, 3), 0.0

    def forward(self, x: torch.Tensor) -> Any:
        self.mean = 0.9 * self.mean + 0.1 * x.mean().item()
        return self.out(x - self.mean)


COUNT = {"n": 0}


def carried(how: str, seen: dict[str, Any], x: torch.Tensor) -> float | torch.Tensor:
    """What a loss is multiplied by."""
    if how == "dict":
        seen["n"] = seen.get("n", 0) + 1
        return 1 + 0.1 * seen["n"]
    if how == "module":
        COUNT["n"] += 1
        return 1 + 0.1 * COUNT["n"]
    if how == "batch before":
        before, seen["x"] = seen.get("x", x), x.clone() + 1
        return 1 + before.mean() ** 2
    if how == "queue":
        queue = seen.setdefault("queue", deque(maxlen=3))
        queue.append(x.detach().clone())
        return 1 + torch.cat(list(queue)).pow(2).sum()
    if how == "iterator":
        return 1 + next(seen.setdefault("iterator", iter(range(1000))))
    return 1.0


def train(how: str, build: Any = lambda: nn.Linear(8, 3), after: Any = None) -> Any:
    def training(run: Run) -> None:
        model = build()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        run.track(model=model, optimizer=optimizer)
        seen: dict[str, Any] = {}
        for step in run.steps(3):
            for x, y in step.batches(DATA):
                loss = F.cross_entropy(model(x), y) * carried(how, seen, x)
                loss.backward()
                step.log(loss=loss)
            optimizer.step()

    return training


@pytest.mark.parametrize("how", ["dict", "module", "batch before", "queue", "iterator"])
def test_what_variables_carry_is_found(how: str) -> None:
    with pytest.raises(
        ContractError, match=r"sub-task 0 of the inner loop at test_proof.py:\d+ was computed twice"
    ) as caught:
        run_local(train(how), batch_size=16, sub_tasks=4)
    if how in ("dict", "module"):
        assert {"dict": "training: seen", "module": "COUNT"}[how] in str(caught.value)
    assert "step.log(loss=...) told another value" in str(caught.value)


@pytest.mark.parametrize("build", [Remembering, Normed])
def test_what_a_module_carries_is_found(build: Any) -> None:
    with pytest.raises(ContractError, match="was computed twice"):
        run_local(train("", build), batch_size=16, sub_tasks=4)


@pytest.mark.parametrize("sub_tasks", [1, 4])
def test_random_numbers_buffers_and_meters_carry_nothing(sub_tasks: int) -> None:
    def turns() -> Iterator[int]:
        yield from range(1000)

    meter = turns()

    def training(run: Run) -> None:
        model = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.Dropout(), nn.Linear(8, 3))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        run.track(model=model, optimizer=optimizer)
        for step in run.steps(3):
            for x, y in step.batches(DATA):
                x += torch.randn_like(x)
                next(meter)
                loss = F.cross_entropy(model(x), y)
                loss.backward()
                step.log(loss=loss, nothing=float("nan"))
            optimizer.step()

    run_local(training, batch_size=16, sub_tasks=sub_tasks)
    assert next(meter) == 3 * sub_tasks + 1


class Meter:
    def __init__(self) -> None:
        self.sum, self.values = 0.0, deque[float](maxlen=9)


class Counted(torch.utils.data.Dataset[Any]):
    loads = 0

    def __len__(self) -> int:
        return 64

    def __getitem__(self, i: int) -> Any:
        self.loads += 1
        return DATA[i]


def passed(step: Any, model: nn.Module, data: Any, records: dict[str, Any]) -> list[float]:
    """One inner loop that keeps records of every kind; returns those of its own."""
    losses: list[float] = []
    for x, y in step.batches(data):
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        losses.append(loss.item())
        records["meters"]["loss"].sum += losses[-1]  # made anew by a defaultdict
        records["meters"]["loss"].values.append(losses[-1])
        records["labels"].update(y.tolist())
        records["first"] = records["first"] or 1.0  # unset until the first: another sub-task is tried then
        np.add.at(records["matrix"], (y.numpy(), 0), 1)
        records["total"] = records["total"] + loss.detach()
        records["objects"].append(Meter())
        records["seen"].add(float(x[0, 0]))
    return losses


class Sequential(Counted):
    """Reads a file on from where it is, as far as that fits: its place is not put back, so what it counts of it is not either."""

    def __init__(self, path: Path) -> None:
        path.write_bytes(bytes(64 * 8))
        self.path, self.file, self.place = path, None, -1

    def __getitem__(self, i: int) -> Any:
        if self.file is None:
            self.file = self.path.open("rb")  # type: ignore[assignment]
        assert self.file is not None
        if self.place != i:
            self.file.seek(8 * i)
        self.place = i + 1
        assert len(self.file.read(8)) == 8
        assert self.file.tell() == 8 * self.place
        return super().__getitem__(i)


def test_what_counts_a_files_place_is_left_alone(tmp_path: Path) -> None:
    def training(run: Run) -> None:
        model, data = nn.Linear(8, 3), Sequential(tmp_path / "samples")
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        run.track(model=model, optimizer=optimizer)
        for step in run.steps(2):
            for x, y in step.batches(data, sampler=range(64)):
                F.cross_entropy(model(x), y).backward()
            optimizer.step()
        data.file.close()  # type: ignore[attr-defined]

    run_local(training, batch_size=16, sub_tasks=4)


def test_records_are_as_if_each_sub_task_were_computed_once() -> None:
    """Whatever keeps them: the proof's extra sub-tasks are not in them."""
    kept: dict[str, Any] = {}

    def training(run: Run) -> None:
        model, data = nn.Linear(8, 3), Counted()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        run.track(model=model, optimizer=optimizer)
        records = {"meters": defaultdict(Meter), "labels": Counter[int](), "first": None, "matrix": np.zeros((3, 3))}
        records |= {"total": torch.zeros(()), "objects": [], "seen": set()}
        for step in run.steps(1):
            kept["losses"] = passed(step, model, data, records)
            optimizer.step()
        kept.update(records, loads=data.loads)

    run_local(training, batch_size=16, sub_tasks=4)
    losses = kept["losses"]
    assert len(losses) == len(kept["objects"]) == len(kept["seen"]) == 4
    assert list(kept["meters"]["loss"].values) == losses
    assert kept["meters"]["loss"].sum == sum(losses)
    assert kept["labels"].total() == kept["loads"] == 16
    assert kept["matrix"].sum() == 16
    assert torch.isclose(kept["total"], torch.tensor(sum(losses)))


class Bound:
    steps: tuple[int, ...] = ()


def test_what_is_bound_anew_in_a_class_is_as_if_each_sub_task_were_computed_once() -> None:
    kept: list[tuple[int, ...]] = []

    def training(run: Run) -> None:
        model = nn.Linear(8, 3)
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        run.track(model=model, optimizer=optimizer)
        Bound.steps = ()
        for step in run.steps(5):
            for x, y in step.batches(DATA):
                Bound.steps = (*Bound.steps, step.number)
                F.cross_entropy(model(x), y).backward()
            optimizer.step()
        kept.append(Bound.steps)

    run_local(training, batch_size=16, sub_tasks=4)
    assert kept == [tuple(step for step in range(5) for _ in range(4))]


@pytest.mark.parametrize("which", [0, 1])
def test_an_error_of_the_users_in_a_repeated_sub_task_says_that_it_was_one(which: int) -> None:
    def training(run: Run) -> None:
        model = nn.Linear(8, 3)
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        run.track(model=model, optimizer=optimizer)
        for step in run.steps(3):
            for i, (x, y) in enumerate(step.batches(DATA)):
                if i == which:
                    raise LookupError("of the user's")
                F.cross_entropy(model(x), y).backward()
            optimizer.step()

    with pytest.raises(LookupError, match="of the user's") as raised:
        run_local(training, batch_size=16, sub_tasks=4)
    notes = getattr(raised.value, "__notes__", [])
    assert len(notes) == which
    assert all(re.search(r"test_proof\.py:\d+ was given this batch only to compare", note) for note in notes)
