"""How real trainers load user code: its own modules beside the standard library's, and the same data at module level in all of them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from surefoot.events import EventKind
from surefoot.spec import JobState
from surefoot_actors.cluster.local.cluster import LocalCluster

from .harness import Stage

# what a trainer imports before and after it loads user code, and what nobody else does
NAMES = ("queue", "random", "calendar", "types", "copy", "socket", "threading", "json", "wave", "sched")

TRAIN = """
import torch
from surefoot import Run
{imports}
import data
from models import net

assert all(module.OWN for module in ({names},))

def train(run: Run):
    model = net.Net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    run.track(model=model, optimizer=optimizer)
    for step in run.steps(6):
        for batch in step.batches(data.Numbers(), collate=data.collate):
            import late
            loss = model(batch + late.NOISE).square().mean()
            loss.backward()
            step.log(loss=loss)
        optimizer.step()
        optimizer.zero_grad()
    if run.config.get("raises"):
        net.fail()
"""
DATA = """
import random as own
import torch
FEATURES = torch.randn(64, 4)
ORDER = torch.randperm(64)
class Numbers:
    def __len__(self): return 64
    def __getitem__(self, i): return FEATURES[ORDER[i]]
def collate(items): return torch.stack(items)
"""
NET = """
import torch
START = torch.randn(1, 4)
class Net(torch.nn.Linear):
    def __init__(self):
        super().__init__(4, 1)
        with torch.no_grad():
            self.weight.copy_(START)
def fail():
    raise ValueError("after the loop")
"""


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    folder, code = tmp_path_factory.mktemp("own"), tmp_path_factory.mktemp("code")
    (code / "models").mkdir()
    for name in NAMES:
        (code / f"{name}.py").write_text("OWN = True")
    imports = "\n".join(f"import {name}" for name in NAMES)
    (code / "train.py").write_text(TRAIN.format(imports=imports, names=", ".join(NAMES)))
    (code / "data.py").write_text(DATA)
    (code / "late.py").write_text("import torch\nNOISE = torch.randn(4)")
    (code / "models/net.py").write_text(NET)
    stage = Stage(folder)
    stage.cluster = LocalCluster("own", [str(code)], {"SUREFOOT_FAULTS_FIRED": str(stage.fired)}, log_dir=folder)
    yield stage
    stage.close()


def test_modules_named_as_others_and_data_at_module_level_are_the_same_in_every_trainer(own: Stage) -> None:
    alone = own.run(entrypoint="train:train", trainers=1)
    assert alone.outcome.state is JobState.SUCCEEDED, alone.outcome
    faults = ["KILL@backward:t1:1"]
    lost = own.run(entrypoint="train:train", trainers=2, min_trainers=1, data_workers=1, faults=faults)
    assert lost.outcome.state is JobState.SUCCEEDED, lost.outcome
    assert lost.fired
    assert (lost.ledger, lost.digest) == (alone.ledger, alone.digest)
    assert len(alone.ledger) == 6


def test_a_failure_is_told_by_the_packages_paths(own: Stage) -> None:
    data = own.run(entrypoint="train:train", trainers=2, config={"raises": True}).last(EventKind.FAILED).data
    assert data["reason"] == "ValueError: after the loop"
    traceback = str(data["traceback"])
    assert 'File "models/net.py", line 10, in fail' in traceback
    assert "surefoot_actors" not in traceback
