"""What is damaged is found and named; what is of another job is refused, and the state stays as it is."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from surefoot.errors import ContractError, DamagedError, RefusedError, UnfitError
from surefoot.events import Circumstances, LedgerRow, Result
from surefoot_actors.checkpoint.capture import Facts, HostMemory, Place, capture
from surefoot_actors.checkpoint.manifest import make_manifest
from surefoot_actors.checkpoint.read import Checkpoint, read_checkpoint
from surefoot_actors.checkpoint.store import CheckpointStore
from surefoot_actors.checkpoint.write import write_share
from surefoot_actors.engine.state.tracked import Tracked
from surefoot_actors.protocol.messages import NotRestored, Restored
from surefoot_actors.trainer.checkpoints.restorer import Restorer

from .kit import CPU, DIGEST, FINGERPRINT, IDENTITY, build, save, tracked


@dataclass(frozen=True)
class Victim:
    url: str
    files: dict[Path, bytes]


@pytest.fixture(scope="module")
def victim(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Victim]:
    """A small checkpoint of two shares, with ledger rows."""
    store = CheckpointStore(str(tmp_path_factory.mktemp("victim")))
    owner = Tracked({"model": torch.nn.Sequential(torch.nn.Linear(7, 5), torch.nn.BatchNorm1d(5))}, CPU)
    row = LedgerRow(
        result=Result(step=2, first_sample=64, num_samples=32, digest=DIGEST, values={"loss": 0.5}),
        circumstances=Circumstances(generation=1, trainers=2, seconds=0.1),
    )
    entries = [
        write_share(
            store.storage,
            f"t{share}",
            capture(
                owner.survey(),
                Place(generation=1, round=3, step=3, share=share, of=2),
                Facts(fingerprint=FINGERPRINT, num_steps=50, last=None, rows=(row, row)),
                HostMemory(CPU),
            ),
            {},
        ).model_dump_json()
        for share in range(2)
    ]
    url = store.commit(make_manifest(IDENTITY, entries))
    files = {path: path.read_bytes() for path in sorted(Path(url).iterdir())}
    assert [path.suffix for path in files].count(".safetensors") == 2
    assert len(files) == 5
    yield Victim(url, files)
    assert read(url).rows == (row, row), "the victim was not put back as it was"


def read(url: str) -> Checkpoint:
    return read_checkpoint(url, IDENTITY, FINGERPRINT)


def assert_named(victim: Victim, path: Path, damaged: bytes | None) -> None:
    if damaged is None:
        path.unlink()
    else:
        path.write_bytes(damaged)
    try:
        with pytest.raises(DamagedError) as caught:
            read(victim.url)
    finally:
        path.write_bytes(victim.files[path])
    assert str(path) in str(caught.value)


@settings(max_examples=1000, deadline=None)
@given(st.data())
def test_every_byte_counts(victim: Victim, data: st.DataObject) -> None:
    """Flipped, cut away or added."""
    path = data.draw(st.sampled_from(sorted(victim.files)))
    whole = victim.files[path]
    at = data.draw(st.integers(0, len(whole) - 1))
    kind = data.draw(st.sampled_from(["flip", "cut", "add"]))
    if kind == "flip":
        damaged = bytearray(whole)
        damaged[at] ^= 1 << data.draw(st.integers(0, 7))
        assert_named(victim, path, bytes(damaged))
    else:
        assert_named(victim, path, whole[:at] if kind == "cut" else whole + whole[at : at + 1])


@pytest.mark.parametrize("number", range(5))
def test_a_missing_file_is_named(victim: Victim, number: int) -> None:
    path = sorted(victim.files)[number]
    assert_named(victim, path, None)


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(DamagedError, match=r"manifest.json is missing"):
        read(str(tmp_path / "nothing"))


@pytest.mark.parametrize("field", ["seed", "batch_size", "sub_tasks", "threads"])
def test_another_job_is_refused(victim: Victim, field: str) -> None:
    """Both values and the mend are told."""
    with pytest.raises(RefusedError, match=f"made with {field} {IDENTITY[field]}, this job has {field} 64.*submit"):
        read_checkpoint(victim.url, {**IDENTITY, field: 64}, FINGERPRINT)


def test_code_and_config_may_differ(victim: Victim) -> None:
    other = {**IDENTITY, "package": "1" * 64, "config": {"steps": 99}, "entrypoint": "other:train"}
    assert read_checkpoint(victim.url, other, FINGERPRINT).manifest.step == 3


def test_another_kind_of_machine(victim: Victim) -> None:
    with pytest.raises(UnfitError, match="device: cpu then, NVIDIA here"):
        read_checkpoint(victim.url, IDENTITY, (("device", "NVIDIA"), ("torch", "2.13")))


def test_other_data_is_for_another_job_alone(victim: Victim) -> None:
    """A job goes on with the data that it began with; one that begins from another's may have data of its own."""
    here = (*FINGERPRINT, ("data train", "3f0c"))
    with pytest.raises(UnfitError, match=r"or with other data .data train: None then, 3f0c here"):
        read_checkpoint(victim.url, IDENTITY, here)
    assert read_checkpoint(victim.url, IDENTITY, here, own=False).manifest.step == 3


def others() -> dict[str, dict[str, Any]]:
    """What another version of the code might build, by what it differs in."""

    def sgd(objects: dict[str, Any]) -> dict[str, Any]:
        return {**objects, "optimizer": torch.optim.SGD(objects["model"].parameters(), lr=0.1)}

    base = build(2)
    grown = build(2)
    grown["model"].extra = torch.nn.Linear(2, 2)
    wide = build(2)
    wide["model"].narrow.float()
    fewer = build(2)
    fewer["optimizer"] = torch.optim.AdamW(list(fewer["model"].parameters())[1:], lr=0.1)
    picky = build(2)
    picky["scheduler"] = Picky()
    return {
        "shape": build(2, width=32),
        "dtype": wide,
        "parameter": grown,
        "objects": {"model": base["model"], "optimizer": base["optimizer"]},
        "settings": sgd(build(2)),
        "groups": fewer,
        "scheduler does not load": picky,
    }


class Picky:
    """Refuses what it did not write, having changed already."""

    def __init__(self) -> None:
        self.state: dict[str, Any] = {"mine": 1}

    def state_dict(self) -> dict[str, Any]:
        return dict(self.state)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.state = dict(state)
        if "mine" not in state:
            raise KeyError("mine")


@pytest.mark.parametrize(
    "what", ["shape", "dtype", "parameter", "objects", "settings", "groups", "scheduler does not load"]
)
def test_another_model_is_refused_and_nothing_is_overwritten(tmp_path: Path, what: str) -> None:
    """By a restorer, as a trainer has it."""
    url = save(CheckpointStore(str(tmp_path)), tracked(1, steps=2))
    owner = Tracked(others()[what], CPU)
    before = owner.tensor_digests()
    told: list[Restored | NotRestored] = []
    answer = ask(owner, url, told)
    assert isinstance(answer, NotRestored)
    assert answer.cause == "refused"
    assert url in answer.reason
    assert "submit the job with the code" in answer.reason
    assert owner.tensor_digests() == before
    with pytest.raises(ContractError):
        owner.check_image(read(url).image)


def ask(owner: Tracked, url: str, told: list[Restored | NotRestored]) -> Restored | NotRestored:
    came = threading.Event()

    def tell(answer: Restored | NotRestored) -> None:
        told.append(answer)
        came.set()

    def adopt(checkpoint: Checkpoint) -> bool:
        owner.check_image(checkpoint.image)
        owner.restore(checkpoint.image)
        return True

    restorer = Restorer("t0", read, adopt, tell)
    restorer.ask(url)
    assert came.wait(60)
    if isinstance(told[0], Restored):
        came.clear()
        restorer.ask(url)  # doubled: answered again
        assert came.wait(60)
    return told[-1]


def test_the_restorer_tells_what_came_of_it(tmp_path: Path) -> None:
    saved, owner = tracked(1, steps=2), tracked(2)
    url = save(CheckpointStore(str(tmp_path)), saved, of=2)
    told: list[Restored | NotRestored] = []
    assert ask(owner, url, told) == Restored(trainer="t0", url=url, round=3, step=3)
    assert told[0] == told[1]
    assert owner.digest() == saved.digest()
    file = next(Path(url).glob("*.pickle"))
    file.write_bytes(file.read_bytes()[:-1])
    answer = ask(owner, url, [])
    assert isinstance(answer, NotRestored)
    assert answer.cause == "damaged"
    assert str(file) in answer.reason


def test_whoever_may_not_restore_says_so_and_a_state_taken_since_is_no_answer(tmp_path: Path) -> None:
    """Whoever asked waits for an answer: silence would hang the job."""
    url = save(CheckpointStore(str(tmp_path)), tracked(1, steps=2))
    answers: queue.Queue[Restored | NotRestored] = queue.Queue()
    adopted = []
    restorer = Restorer("t0", read, lambda checkpoint: not adopted.append(checkpoint), answers.put)
    for _ in range(2):
        restorer.ask(url)
        assert isinstance(answers.get(timeout=60), Restored)
    assert len(adopted) == 1
    restorer.forget()
    restorer.ask(url)
    assert isinstance(answers.get(timeout=60), Restored)
    assert len(adopted) == 2, "it answered by a state that it holds no more"
    member = Restorer("t1", read, lambda checkpoint: False, answers.put)
    member.ask(url)
    answer = answers.get(timeout=60)
    assert isinstance(answer, NotRestored)
    assert answer.cause == "late"
