"""What a module draws as it is imported depends on the seed and its name: not on who imports it, when, or after what."""

from __future__ import annotations

import os
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from surefoot import Run
from surefoot.events import LedgerRow
from surefoot_actors.determinism.rng import Purpose, Streams
from surefoot_actors.engine.contract.run import RunOptions, run_training
from surefoot_actors.local_run.coordinator import LocalCoordinator
from surefoot_actors.local_run.run_local import run_local
from surefoot_actors.user_code.finder import finding

from .child import calling, in_child, lay

DRAWS = """
import random
import numpy as np
import torch
DATA = torch.randn(3).tolist(), np.random.rand(3).tolist(), [random.random() for _ in range(3)]
ORDER = list(range(10))
random.shuffle(ORDER)
"""
MODULES = ("a", "b", "c", "pkg.d")


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("program")
    # b imports a, so that whoever imports b first has a's draws within b's
    lay(folder, {"a.py": DRAWS, "b.py": f"import a\n{DRAWS}", "c.py": f"{DRAWS}\nimport b", "pkg/d.py": DRAWS})
    lay(folder, {"train.py": "def train(run): ..."})
    return folder


def draws(seed: int, order: list[str], before: list[int]) -> Any:
    """What the modules hold, imported in this order, with so many draws before each; and whether each left the generators alone."""

    def imported(train: Any) -> Any:
        held, alone = {}, True
        for name, n in zip(order, before, strict=True):
            torch.rand(n + 1), np.random.rand(n), [random.random() for _ in range(n)]
            states = torch.get_rng_state(), str(np.random.get_state()), random.getstate()
            module = __import__(name, fromlist=["DATA"])
            after = torch.get_rng_state(), str(np.random.get_state()), random.getstate()
            alone = alone and torch.equal(states[0], after[0]) and states[1:] == after[1:]
            held[name] = module.DATA, module.ORDER
        return held, alone

    return imported


@settings(max_examples=12, deadline=None)
@given(st.permutations(MODULES), st.lists(st.integers(0, 5), min_size=4, max_size=4))
def test_the_order_and_time_of_imports_changes_nothing(program: Path, order: list[str], before: list[int]) -> None:
    first = calling(program, then=draws(3, list(MODULES), [0, 0, 0, 0]))
    other = calling(program, then=draws(3, order, before))
    assert other == first
    assert first[1], "an import moved the generators"
    assert first != calling(program, seed=4, then=draws(4, list(MODULES), [0, 0, 0, 0]))
    assert len({str(value) for value in first[0].values()}) == len(MODULES)


LATE = """
import torch
from surefoot import Run

def train(run: Run):
    torch.manual_seed(0)
    model = torch.nn.Linear(1, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    run.track(model=model, optimizer=optimizer)
    data = torch.utils.data.TensorDataset(torch.arange(64.0).unsqueeze(1))
    for step in run.steps(3):
        for (batch,) in step.batches(data):
            from noise import NOISE
            loss = model(batch / 64 + NOISE).square().mean()
            loss.backward()
            step.log(loss=loss)
        optimizer.step()
        optimizer.zero_grad()
"""


class From(LocalCoordinator):
    """Begins its sub-tasks elsewhere: as a trainer that owns others, or that joined."""

    def __init__(self, first: int) -> None:
        super().__init__(4)
        self._order = [(first + n) % 4 for n in range(4)]

    def next_sub_task(self) -> int | None:
        n = super().next_sub_task()
        return n if n is None else self._order[n]


def canonical(rows: list[LedgerRow]) -> list[bytes]:
    return [row.result.canonical() for row in rows]


def test_a_module_imported_in_the_inner_loop_is_the_same_whichever_sub_task_comes_first(tmp_path: Path) -> None:
    lay(tmp_path, {"train.py": LATE, "noise.py": "import torch\nNOISE = torch.randn(1)"})

    def trained(first: int) -> Any:
        coordinator = From(first)
        options = RunOptions(batch_size=8, sub_tasks=4, seed=3)
        return lambda train: (run_training(train, options, coordinator), canonical(coordinator.rows))[1]

    ledgers = [calling(tmp_path, then=trained(first)) for first in range(4)]
    assert ledgers == [ledgers[0]] * 4

    def locally() -> Any:
        import sys

        sys.path.insert(0, str(tmp_path))
        sys.modules.pop("train", None)  # another test's
        train = __import__("train").train
        return canonical(list(run_local(train, batch_size=8, sub_tasks=4, seed=3).rows))

    assert in_child(locally) == ledgers[0]


def test_run_local_leaves_imports_as_they_were(tmp_path: Path) -> None:
    import sys

    def train(run: Run) -> None:
        raise ZeroDivisionError

    before = list(sys.meta_path), os.environ.get("SUREFOOT_CODE")
    with pytest.raises(ZeroDivisionError):
        run_local(train, batch_size=8)
    assert (list(sys.meta_path), os.environ.get("SUREFOOT_CODE")) == before


def test_a_module_that_raises_leaves_the_generators_alone(tmp_path: Path) -> None:
    lay(tmp_path, {"broken_one.py": "import torch\ntorch.rand(3)\nraise ValueError('broken')"})

    def child() -> bool:
        import sys

        sys.path.insert(0, str(tmp_path))
        streams = Streams(3, torch.device("cpu"))
        streams.start(Purpose.SETUP)
        state = torch.get_rng_state()
        with finding([str(tmp_path)], streams), pytest.raises(ValueError, match="broken"):
            __import__("broken_one")
        return torch.equal(state, torch.get_rng_state())

    assert in_child(child)
