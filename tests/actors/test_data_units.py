"""A trainer's part in the job's data, without a trainer."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from surefoot.data import DataSource
from surefoot.errors import DataError
from surefoot.spec import JobSpec
from surefoot_actors.cluster.ports import TrainerSetup
from surefoot_actors.node_data.cache import NodeCache
from surefoot_actors.node_data.listing import Listing
from surefoot_actors.node_data.locks import Holds
from surefoot_actors.node_data.places import Copier
from surefoot_actors.protocol.messages import DataTold, FromTrainer
from surefoot_actors.trainer import data as trainer_data
from surefoot_actors.trainer.data import TrainerData

pytestmark = pytest.mark.unit


def _trainer(tmp_path: Path, told: list[FromTrainer], **sources: DataSource) -> TrainerData:
    spec = JobSpec(entrypoint="train:train", package="0" * 64, batch_size=8, data=sources)
    setup = TrainerSetup(attempt="a", trainer="t0", spec=spec, liveness=("", 0), checkpoints=str(tmp_path / "job"))
    cache = NodeCache(tmp_path / "cache", Holds())
    return TrainerData(setup, cache, told.append, lambda what: None, time.monotonic)


def test_training_does_not_wait_for_a_long_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of what is read in place it is a courtesy; but nothing at all there is told before the first step."""
    go_on = threading.Event()

    def slow(url: str, most: int) -> Listing | None:
        go_on.wait(60)
        return None

    monkeypatch.setattr(trainer_data, "_LISTED_WITHIN_S", 0.01)
    monkeypatch.setattr(trainer_data, "list_place", slow)
    told: list[FromTrainer] = []
    trainer = _trainer(tmp_path, told, train=DataSource(url="s3://bucket/x", copy=False))
    assert dict(trainer.open()) == {"train": "s3://bucket/x"}
    assert (trainer.fingerprint, told) == ((), [])
    go_on.set()
    monkeypatch.undo()
    with pytest.raises(DataError, match="is its storage mounted"):
        _trainer(tmp_path, told, train=DataSource(url=str(tmp_path / "none"))).open()


def test_what_members_noted_is_what_counts(tmp_path: Path) -> None:
    """The first note stays; whoever has a copy with its digest takes that, whatever lies at the place by then."""
    (tmp_path / "x").write_text("abc")
    source = DataSource(url=str(tmp_path / "x"), copy=True)
    told: list[FromTrainer] = []
    first = _trainer(tmp_path, told, train=source)
    place = Path(first.open()["train"])
    assert [(m.what, m.bytes, m.files) for m in told if isinstance(m, DataTold)] == [
        ("copying", 3, 1),
        ("copied", 3, 1),
    ]
    first._note()
    (tmp_path / "x").write_text("other")
    second = _trainer(tmp_path, told, train=source)
    assert Path(second.open()["train"]) == place
    assert second.fingerprint == first.fingerprint != ()
    elsewhere = _trainer(tmp_path, told, train=source)
    other = NodeCache(tmp_path / "another node", Holds())
    elsewhere._cache, elsewhere._copier = other, Copier(other, elsewhere._teller)
    with pytest.raises(DataError, match="no longer what this job trains on: x has 5 bytes and had 3"):
        elsewhere.open()
    assert len(told) == 4
