"""Leaves and buckets, buffers, warnings, the fingerprint, and the shape of the ledger."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from surefoot.contract import Run
from surefoot_actors.determinism.fingerprint import fingerprint, make_deterministic
from surefoot_actors.engine.contract.run import RunOptions, run_training
from surefoot_actors.engine.vector.buckets import Part, cut_buckets
from surefoot_actors.engine.vector.buffers import BufferWatch
from surefoot_actors.local_run.coordinator import LocalCoordinator

from .kit import Net, classify, points, run_local

DATA = points()


def test_buckets_are_cut_by_order_size_and_dtype() -> None:
    def part(numel: int, dtype: torch.dtype = torch.float32) -> Part:
        return Part("p", dtype, (numel,))

    mebi = 1 << 20
    assert cut_buckets([part(9 * mebi), part(9 * mebi), part(1)]) == [[0], [1, 2]]
    assert cut_buckets([part(40 * mebi), part(1)]) == [[0], [1]]
    assert cut_buckets([part(3), part(3, torch.float64), part(3, torch.bfloat16), part(2, torch.float16)]) == [
        [0, 2, 3],
        [1],
    ]
    assert cut_buckets([]) == []


def test_leaf_is_a_function_of_its_sub_task_alone() -> None:
    """Sub-task 2's leaf is the same whether it is the first or the last that a trainer computes."""
    leaves: list[dict[int, Any]] = []

    class Recording(LocalCoordinator):
        def __init__(self, order: list[int]) -> None:
            super().__init__(4)
            self.order, self.leaves = order, {}

        def next_sub_task(self) -> int | None:
            number = super().next_sub_task()
            return None if number is None else self.order[number]

        def put_leaf(self, leaf: Any) -> None:
            self.leaves.setdefault(
                leaf.range.lo, [b.clone() for b in leaf.buckets] + [leaf.scalars, leaf.exact, leaf.presence]
            )
            super().put_leaf(leaf)

    for order in ([0, 1, 2, 3], [2, 3, 1, 0]):
        coordinator = Recording(order)
        run_training(classify(num_steps=1), RunOptions(batch_size=56, sub_tasks=4), coordinator)
        leaves.append(coordinator.leaves)
    for v in range(4):
        assert torch.equal(leaves[0][v][0], leaves[1][v][0])
        assert leaves[0][v][1:] == leaves[1][v][1:]


@pytest.mark.parametrize("how", ["in_place", "data", "registered", "numpy"])
def test_buffer_writes_are_found_however_they_are_made(how: str) -> None:
    module = nn.Module()
    module.register_buffer("statistic", torch.zeros(3))
    module.register_buffer("kept", torch.ones(3), persistent=False)
    watch = BufferWatch([("m", module)])
    slots = watch.open()
    if how == "in_place":
        module.statistic += 1  # type: ignore[operator]
    elif how == "data":
        module.statistic.data = torch.ones(3)  # type: ignore[union-attr]
    elif how == "registered":
        module.statistic = torch.ones(3)
    else:
        module.statistic.numpy()[:] = 1  # type: ignore[operator, union-attr]
    watch.harvest()
    assert [slot.name for slot in slots if slot.written] == ["m.statistic"]
    assert torch.equal(slots[0].tensor, torch.ones(3))
    watch.restore()
    assert torch.equal(module.statistic, torch.zeros(3))  # type: ignore[arg-type]
    assert not slots[0].written
    assert watch.open() is slots


def test_buffer_bits_not_values_count() -> None:
    module = nn.Module()
    module.register_buffer("b", torch.tensor([float("nan"), 0.0]))
    watch = BufferWatch([("m", module)])
    (slot,) = watch.open()
    watch.harvest()
    assert not slot.written
    module.b[1] = -0.0  # type: ignore[index, operator]
    watch.harvest()
    assert slot.written


def test_large_unwritten_buffers_are_not_in_the_vector() -> None:
    sizes: list[int] = []

    class Masked(nn.Linear):
        def __init__(self) -> None:
            super().__init__(16, 2)
            self.register_buffer("mask", torch.zeros(200, 200))
            self.register_buffer("flags", torch.ones(4, dtype=torch.bool))

    def train(run: Run) -> None:
        model = Masked()
        run.track(model=model, optimizer=torch.optim.SGD(model.parameters(), lr=0.1))
        for step in run.steps(1):
            for x, y in step.batches(DATA):
                F.cross_entropy(model(x), y).backward()
            layout = run.coordinator.merged().layout  # type: ignore[attr-defined]
            sizes.extend([sum(b.numel for b in layout.buckets), layout.exact_bytes])

    run_local(train, batch_size=8, sub_tasks=4)
    assert sizes == [34, 0]


def test_frozen_parameters_take_no_room() -> None:
    found: list[int] = []

    def train(run: Run) -> None:
        model = Net()
        model.requires_grad_(False)
        model.body[4].requires_grad_(True)
        run.track(model=model, optimizer=torch.optim.SGD(model.parameters(), lr=0.1))
        for step in run.steps(1):
            for x, y in step.batches(DATA):
                F.cross_entropy(model(x), y).backward()
            found.append(run.coordinator.merged().layout.buckets[0].numel)  # type: ignore[attr-defined]

    run_local(train, batch_size=8, sub_tasks=4)
    assert found == [24 * 2 + 2 + 2 * 24]  # the last layer, and BatchNorm's two statistics


def test_gradients_that_are_not_finite_are_told_ever_more_rarely() -> None:
    told: list[str] = []

    def train(run: Run) -> None:
        model = nn.Linear(16, 2)
        run.track(model=model)
        for step in run.steps(9):
            for x, _ in step.batches(DATA):
                (model(x).sum() * float("inf")).backward()

    run_training(train, RunOptions(batch_size=8, sub_tasks=2, on_warning=told.append), LocalCoordinator(2))
    assert len(told) == 4
    assert "step 0" in told[0]
    assert "step 7" in told[3]


def test_ledger_rows() -> None:
    rows = run_local(classify(num_steps=3), batch_size=56, sub_tasks=8).rows
    assert [row.result.step for row in rows] == [0, 1, 2]
    assert [row.result.first_sample for row in rows] == [0, 56, 112]
    assert {row.result.num_samples for row in rows} == {56}
    assert all(list(row.result.values) == ["loss"] for row in rows)
    assert all(row.circumstances.trainers == 1 and row.circumstances.seconds > 0 for row in rows)


def test_code_outside_sub_tasks_sees_a_stream_of_its_step() -> None:
    drawn: list[list[float]] = []

    def train(run: Run) -> None:
        here = [torch.rand(()).item()]
        run.track(model=nn.Linear(16, 2))
        for step in run.steps(2):
            here.append(torch.rand(()).item())
            for _ in step.batches(DATA):
                torch.rand(step.number + run.sub_tasks)  # however much is drawn in sub-tasks
            here.append(torch.rand(()).item())
        drawn.append(here)

    run_local(train, batch_size=8, sub_tasks=4)
    run_local(train, batch_size=8, sub_tasks=8)
    assert drawn[0] == drawn[1]
    assert len(set(drawn[0])) == 5


def test_every_is_the_last_of_n() -> None:
    found: list[int] = []

    def train(run: Run) -> None:
        run.track(model=nn.Linear(16, 2))
        for step in run.steps(6):
            for _ in step.batches(DATA):
                pass
            if step.every(3):
                found.append(step.number)

    run_local(train, batch_size=8, sub_tasks=4)
    assert found == [2, 5]


def test_fingerprint_names_what_decides_the_bits() -> None:
    names = dict(fingerprint(torch.device("cpu"), 2))
    assert list(names) == sorted(names)
    assert names["torch"] == torch.__version__
    assert names["threads"] == "2"
    assert {"cpu_capability", "torch_build", "pythonhashseed", "python", "deterministic", "device"} <= set(names)


@pytest.mark.process
def test_fingerprint_tells_settings_apart() -> None:
    code = (
        "import torch; from surefoot_actors.determinism.fingerprint import *;"
        "d = torch.device('cpu'); a = fingerprint(d, 1); make_deterministic(1); print(a == fingerprint(d, 1))"
    )
    env = {k: v for k, v in os.environ.items() if k != "CUBLAS_WORKSPACE_CONFIG"}
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=env).stdout
    assert out.strip() == "False"
    assert callable(make_deterministic)


@pytest.mark.parametrize("point", ["forward", "backward"])
@pytest.mark.process
def test_faults_fire_at_their_point(point: str, tmp_path: Path) -> None:
    fired, log = tmp_path / "fired", tmp_path / "log"
    code = f"""
from surefoot_actors.faults import points as faults
from tests.engine.kit import *
import torch, torch.nn.functional as F
faults.arm(("KILL@{point}:t1:1",), "t1", {str(fired)!r})
def train(run):
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    run.track(model=model, optimizer=optimizer)
    for step in run.steps(3):
        for x, y in step.batches(points()):
            loss = F.cross_entropy(model(x), y)
            open({str(log)!r}, "a").write(f"{{step.number}} ")
            loss.backward()
        optimizer.step()
run_local(train, batch_size=8, sub_tasks=2)
"""
    root = str(Path(__file__).parents[2])
    env = {**os.environ, "PYTHONPATH": root, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code], cwd=root, env=env, check=False, capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert fired.read_text().startswith(f"SIGKILL@{point}:t1:1")
    assert log.read_text() == {"forward": "0 0 0 ", "backward": "0 0 0 1 "}[point]
