"""Where checkpoints lie: what is found, what is kept, and storage that is away, slow or full. On disk and on a real S3 wire."""

from __future__ import annotations

import contextlib
import shutil
import threading
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from surefoot.errors import CheckpointError
from surefoot_actors.checkpoint.capture import Facts, Place
from surefoot_actors.checkpoint.manifest import ShareEntry
from surefoot_actors.checkpoint.read import read_checkpoint
from surefoot_actors.checkpoint.store import CheckpointStore, read_manifest
from surefoot_actors.checkpoint.write import write_share
from surefoot_actors.protocol.messages import Saved
from surefoot_actors.trainer.checkpoints.saver import Parked, Saver

from ..disk import small_disk
from ..s3 import BUCKET, Wire, s3_wire
from .kit import CPU, FINGERPRINT, IDENTITY, save, tracked

EMPTY = Facts(fingerprint=FINGERPRINT, num_steps=50, last=None, rows=())


@pytest.fixture(scope="module")
def wire() -> Iterator[Wire]:
    with s3_wire() as made:
        yield made


@pytest.fixture(params=["folder", "s3"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "folder":
        return str(tmp_path / "job")
    request.getfixturevalue("wire")
    return f"s3://{BUCKET}/{uuid.uuid4()}"


def test_found_newest_first_and_read_back(url: str) -> None:
    store, owner = CheckpointStore(url), tracked(1, steps=2)
    assert store.found() == []
    for step in (3, 12, 1_234_567_890):
        save(store, owner, of=2, step=step)
    found = CheckpointStore(url).found()
    assert [f.step for f in found] == [1_234_567_890, 12, 3]
    assert CheckpointStore(found[1].url).found() == [found[1]], "a checkpoint's own URL"
    other = tracked(2)
    other.restore(read_checkpoint(found[0].url, IDENTITY, FINGERPRINT).image)
    assert other.digest() == owner.digest()


def test_what_is_kept(url: str) -> None:
    store, owner = CheckpointStore(url), tracked(1, width=4, vocabulary=9)
    urls = {step: save(store, owner, step=step) for step in (1, 2, 3, 4, 5, 9)}
    store.storage.write("step-000000002/late", [b"of a fenced trainer"])
    store.storage.write("step-000000004/manifest.json.part", [b"torn"])
    store.storage.remove("step-000000004/manifest.json")
    store.storage.write("step-000000007/torn", [b"being written"])
    store.retain(urls[5], keep=2, best=urls[1])
    # 9 and 7 are of later steps than the one that was just made: an earlier attempt's, to be made again
    assert [f.step for f in store.found()] == [9, 5, 3, 1]
    assert sorted(store.storage.sizes("")) == [f"step-00000000{n}" for n in (1, 3, 5, 7, 9)]
    read_checkpoint(urls[3], IDENTITY, FINGERPRINT)


def test_a_checkpoint_whose_files_are_gone_is_not_made(url: str) -> None:
    store, owner = CheckpointStore(url), tracked(1, width=4, vocabulary=9)
    manifest = read_manifest(save(store, owner, of=2))
    store.storage.remove("step-000000003/manifest.json")
    store.storage.remove(f"step-000000003/{manifest.shares[1].file.path}")
    with pytest.raises(CheckpointError, match="share-1-of-2"):
        store.commit(manifest)
    assert store.found() == []


def test_s3_is_away_for_a_while(wire: Wire) -> None:
    """A write fails with a word, what is there stays whole, and later writes succeed."""
    store, owner = CheckpointStore(f"s3://{BUCKET}/{uuid.uuid4()}"), tracked(1, steps=1)
    first = save(store, owner, step=1)
    wire.away.set()
    try:
        saved = saving(store.url, lambda saver: saver.snapshot(owner.survey, place(2), EMPTY))
        with pytest.raises(CheckpointError, match="could not"):
            store.found()
    finally:
        wire.away.clear()
    assert wire.num_refused
    assert saved.error.startswith(f"could not write {store.url}/step-000000002/g1-t0-share-0-of-1"), saved.error
    assert not saved.entry
    assert [f.url for f in store.found()] == [first]
    assert store.storage.sizes("step-000000002") == {}
    second = save(store, owner, step=2)
    other = tracked(2)
    other.restore(read_checkpoint(second, IDENTITY, FINGERPRINT).image)
    assert other.digest() == owner.digest()


def test_no_such_bucket_and_no_such_kind_of_url(wire: Wire) -> None:
    with pytest.raises(CheckpointError, match="could not write s3://nowhere/x/a"):
        CheckpointStore("s3://nowhere/x").storage.write("a", [b"1"])
    with pytest.raises(CheckpointError, match="could not reach what://x"):
        CheckpointStore("what://x")


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "disk", "1m") as folder:
        yield folder


@pytest.mark.process
def test_the_disk_is_full(full_disk: Path) -> None:
    """The snapshot fails with one clear sentence, leaves nothing behind, and the checkpoint before it stays whole."""
    store, small, big = CheckpointStore(str(full_disk)), tracked(1, width=4, vocabulary=9), tracked(1, steps=1)
    first = save(store, small, step=1)
    free = shutil.disk_usage(full_disk).free
    saved = saving(store.url, lambda saver: saver.snapshot(big.survey, place(2), EMPTY))
    assert saved.error.startswith(f"could not write {full_disk}/step-000000002/g1-t0-share-0-of-1")
    assert saved.error.endswith("No space left on device")
    assert list((full_disk / "step-000000002").iterdir()) == []
    assert shutil.disk_usage(full_disk).free >= free - 8192
    read_checkpoint(first, IDENTITY, FINGERPRINT)
    again = saving(store.url, lambda saver: saver.snapshot(small.survey, place(3), EMPTY))
    assert again.entry


# ---- the writing thread


def place(step: int, share: int = 0, of: int = 1) -> Place:
    return Place(generation=1, round=step, step=step, share=share, of=of)


class Told:
    """What a saver tells, as it comes."""

    def __init__(self) -> None:
        self.all: list[Saved] = []
        self._changed = threading.Condition()

    def __call__(self, saved: Saved) -> None:
        with self._changed:
            self.all.append(saved)
            self._changed.notify_all()

    def wait(self, num: int) -> list[Saved]:
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.all) >= num, timeout=120), self.all
        return self.all


def saving(url: str, act: Callable[[Saver], None]) -> Saved:
    told = Told()
    act(Saver(url, "t0", CPU, told))
    return told.wait(1)[0]


@contextlib.contextmanager
def slow(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], None]]:
    """Have writes wait until the gate is opened."""
    from surefoot_actors.trainer.checkpoints import saver

    gate = threading.Event()

    def waiting(*args: object) -> ShareEntry:
        assert gate.wait(60)
        return write_share(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(saver, "write_share", waiting)
    yield gate.set
    gate.set()


def test_a_write_that_hangs_is_told_of_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    owner, told = tracked(1, steps=1), Told()
    saver = Saver(str(tmp_path), "t0", CPU, told)
    with slow(monkeypatch) as open_gate:
        saver.snapshot(owner.survey, place(5), EMPTY)
        saver.tell_if_slow()
        assert told.all == []
        monkeypatch.setattr("surefoot_actors.trainer.checkpoints.saver.SLOW_S", 0.0)
        for _ in range(3):
            saver.tell_if_slow()
        assert [saved.error for saved in told.all] == ["its share has been in the writing for 0 s"]
        open_gate()
        assert not told.wait(2)[1].error


def test_a_snapshot_is_of_its_step_however_late_it_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Training goes on meanwhile."""
    owner, told = tracked(1, steps=1), Told()
    saver, expected = Saver(str(tmp_path), "t0", CPU, told), owner.digest()
    with slow(monkeypatch) as open_gate:
        saver.snapshot(owner.survey, place(5), EMPTY)
        owner.restore(tracked(3, steps=2).capture())  # training goes on
        assert saver.busy
        open_gate()
        [saved] = told.wait(1)
    assert not saved.error
    assert saved.stall_s > 0
    assert not saver.busy
    from surefoot_actors.checkpoint.manifest import make_manifest

    url = CheckpointStore(str(tmp_path)).commit(make_manifest(IDENTITY, [saved.entry]))
    other = tracked(2)
    other.restore(read_checkpoint(url, IDENTITY, FINGERPRINT).image)
    assert other.digest() == expected


def test_parked_state_is_saved_share_by_share_and_exported(tmp_path: Path) -> None:
    owner, told = tracked(1, steps=1), Told()
    saver = Saver(str(tmp_path), "t0", CPU, told)
    for share in (1, 0):
        modules = owner.models() if share == 0 else {}
        saver.save(
            Parked(place=place(9, share, 2), survey=owner.survey, facts=EMPTY, modules=modules, still=lambda: True)
        )
    saved = told.wait(2)
    assert [s.parked for s in saved] == [True, True]
    entries = [ShareEntry.model_validate_json(s.entry) for s in saved]
    assert [file.path for file in (entries[1].head or entries[0].head).model] == ["model/model.safetensors", "model/average.safetensors"]  # type: ignore[union-attr]  # fmt: skip


def test_state_that_did_not_stand_still_is_not_saved(tmp_path: Path) -> None:
    owner, told = tracked(1), Told()
    Saver(str(tmp_path), "t0", CPU, told).save(
        Parked(place=place(9), survey=owner.survey, facts=EMPTY, still=lambda: False)
    )
    (saved,) = told.wait(1)
    assert "training went on" in saved.error
    assert not saved.entry
    assert saved.parked


def test_a_state_that_cannot_be_copied_does_not_stop_training(tmp_path: Path) -> None:
    owner, told = tracked(1), Told()
    survey = owner.survey()
    survey.objects["odd"] = lambda: None  # cannot be pickled
    Saver(str(tmp_path), "t0", CPU, told).snapshot(lambda: survey, place(1), EMPTY)
    assert "could not be copied" in told.wait(1)[0].error
