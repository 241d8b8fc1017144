"""Data and the node's cache in a local run."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

import surefoot
from surefoot.data import DataUrl
from surefoot.errors import ContractError, DataError


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SUREFOOT_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


def _train(run: surefoot.Run, data: torch.Tensor) -> None:
    model = torch.nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    run.track(model=model, optimizer=optimizer)
    for step in run.steps(1):
        for x in step.batches(data):
            model(x).mean().backward()
        optimizer.step()


def test_the_same_bits_wherever_the_data_lies(tmp_path: Path, cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "data").mkdir()
    torch.save(torch.arange(16.0).reshape(8, 2), tmp_path / "data" / "x.pt")
    seen = []

    def train(run: surefoot.Run) -> None:
        run.node_once(lambda: (run.cache_dir / "made").touch())
        assert run.cache_dir.is_relative_to(cache)
        seen.append(run.data["train"])
        with (run.data["train"] / "x.pt").open("rb") as file:
            _train(run, torch.load(file))

    path = str(tmp_path / "data")
    ways = ({"train": path}, {"train": {"url": path, "copy": True}})
    digests = {surefoot.run_local(train, batch_size=8, data=data).digest for data in ways}
    assert len(digests) == 1
    assert seen[0] == Path(path)
    assert Path(seen[1]).is_relative_to(cache)
    told = capsys.readouterr().err
    assert told.count("copying data train: ") == told.count("copied data train in ") == 1


def test_code_is_told_of_data_that_is_not_there(tmp_path: Path) -> None:
    def train(run: surefoot.Run) -> None:
        run.data["trian"]

    with pytest.raises(ContractError, match=r"did you mean 'train'\?"):
        surefoot.run_local(train, batch_size=8, data={"train": str(tmp_path)})
    for url in (str(tmp_path / "none"), f"file://{tmp_path}/none"):
        with pytest.raises(DataError, match="there is nothing at"):
            surefoot.run_local(train, batch_size=8, data={"train": {"url": url, "copy": True}})


def test_what_is_read_at_its_url_is_not_looked_at(tmp_path: Path) -> None:
    def train(run: surefoot.Run) -> None:
        assert isinstance(run.data["train"], DataUrl)
        _train(run, torch.ones(8, 2))

    surefoot.run_local(train, batch_size=8, data={"train": {"url": "s3://bucket/x", "copy": False}})
    assert not os.path.exists(tmp_path / "cache")
