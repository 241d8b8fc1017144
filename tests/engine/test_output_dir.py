"""`run.output_dir` and `run.elected` without a cluster, and asked for too early."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import TensorDataset

import surefoot
from surefoot.contract import Run
from surefoot.errors import ContractError

DATA = TensorDataset(torch.randn(16, 3), torch.arange(16) % 2)


def loop(run: Run, *, writes: bool = True) -> None:
    model = nn.Linear(3, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    run.track(model=model, optimizer=optimizer)
    for step in run.steps(3):
        for x, y in step.batches(DATA):
            F.cross_entropy(model(x), y).backward()
        optimizer.step()
        if writes and run.elected:
            with (run.output_dir / "rows.csv").open("a") as file:
                file.write(f"{step.number}\n")
    if writes:
        assert run.elected


def silent(run: Run) -> None:
    loop(run, writes=False)


def early(run: Run) -> None:
    assert run.elected
    loop(run)


def test_the_folder_is_the_one_that_is_named_as_it_is(tmp_path: Path) -> None:
    for times in (1, 2):
        result = surefoot.run_local(loop, batch_size=8, output_dir=tmp_path / "deep" / "out")
        assert result.output_dir == tmp_path / "deep" / "out"
        assert (tmp_path / "deep" / "out" / "rows.csv").read_text() == "0\n1\n2\n" * times


def moving(run: Run) -> None:
    os.chdir(run.config["to"])
    loop(run)


def test_relative_folders_are_those_that_they_were_when_it_began(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
    for more in ({"checkpoint": "saved"}, {"restore": "saved", "checkpoint": "again"}):
        monkeypatch.chdir(tmp_path / "here")
        config = {"to": str(tmp_path / "there")}
        result = surefoot.run_local(moving, batch_size=8, output_dir="out", config=config, checkpoint_every=2, **more)
        assert result.output_dir == tmp_path / "here" / "out"
        monkeypatch.chdir(tmp_path / "here")
        for folder in (tmp_path / "here" / "saved").glob("step-000000003"):
            shutil.rmtree(folder)  # the second begins before the end
    assert sorted(path.name for path in (tmp_path / "here").iterdir()) == ["again", "out", "saved"]
    assert list((tmp_path / "there").iterdir()) == []


def test_or_a_new_one_that_the_result_names() -> None:
    result = surefoot.run_local(loop, batch_size=8)
    assert result.output_dir is not None
    assert (result.output_dir / "rows.csv").read_text() == "0\n1\n2\n"
    shutil.rmtree(result.output_dir)


def test_who_never_asks_gets_none() -> None:
    assert surefoot.run_local(silent, batch_size=8).output_dir is None


def test_before_the_loop_nobody_is_elected() -> None:
    with pytest.raises(ContractError, match=r"run\.elected at test_output_dir\.py:\d+ comes before the loop"):
        surefoot.run_local(early, batch_size=8)
