"""Storage that is full or away while a job trains: it costs checkpoints, never a step, and nothing is begun anew for it."""

from __future__ import annotations

import shutil
import threading
import uuid
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from surefoot.events import Command, CommandKind, Event, EventKind
from surefoot.spec import JobState
from surefoot_actors.checkpoint.catalogue import Catalogue
from surefoot_actors.checkpoint.store import CheckpointStore
from surefoot_actors.uplink.memory import MemoryUplink

from ..disk import fill_up, small_disk
from ..s3 import BUCKET, Wire, s3_wire
from .harness import Keep, Stage, Story, staged
from .test_matrix import assert_same, told

STEPS = 40
TWO: dict[str, Any] = {"trainers": 2, "min_trainers": 2}


class Place(ABC):
    """Where checkpoints lie, which can be made to fail."""

    url: str
    # of why nothing can be written there meanwhile
    reason: str

    @abstractmethod
    def fail(self) -> None: ...

    @abstractmethod
    def mend(self) -> None:
        """Also asserts that the fault was met."""


class Disk(Place):
    reason = "No space left on device"

    def __init__(self, folder: Path) -> None:
        self.url, self._ballast = str(folder / "job"), folder / "ballast"

    def fail(self) -> None:
        fill_up(self._ballast)

    def mend(self) -> None:
        assert shutil.disk_usage(self._ballast.parent).free == 0
        self._ballast.unlink()


class Bucket(Place):
    reason = f"could not write s3://{BUCKET}/"

    def __init__(self, wire: Wire) -> None:
        self.url, self._wire, self._before = f"s3://{BUCKET}/{uuid.uuid4()}", wire, 0

    def fail(self) -> None:
        self._before = self._wire.num_refused
        self._wire.away.set()

    def mend(self) -> None:
        self._wire.away.clear()
        assert self._wire.num_refused > self._before, "nobody came while it was away"


@pytest.fixture(scope="module")
def wire() -> Iterator[Wire]:
    with s3_wire() as made:
        yield made


@pytest.fixture(scope="module")
def stage(wire: Wire) -> Iterator[Stage]:
    """One of this module's own, since its trainers find the object store by their environment."""
    with staged() as made:
        yield made


@pytest.fixture(scope="module")
def undisturbed(stage: Stage) -> Story:
    return stage.run(trainers=1, config={"steps": STEPS, "computed": None})


@pytest.fixture
def bucket(wire: Wire) -> Iterator[Bucket]:
    yield Bucket(wire)
    wire.away.clear()


@pytest.fixture(params=["disk", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    if request.param == "s3":
        yield request.getfixturevalue("bucket")
        return
    with small_disk(tmp_path / "disk", "4m") as folder:
        yield Disk(folder)


class Gates:
    """Steps at which training waits, after everything that is due before them was begun."""

    def __init__(self, folder: Path, *steps: int) -> None:
        self._paths = {step: folder / f"gate-{step}" for step in steps}
        self.config = {
            "steps": STEPS,
            "computed": None,
            "gates": [[step, str(path)] for step, path in self._paths.items()],
        }

    def open(self, step: int) -> None:
        self._paths[step].touch()


def of(uplink: MemoryUplink, kind: EventKind) -> list[Event]:
    return [event for event in uplink.events if event.kind is kind]


def states(uplink: MemoryUplink) -> list[object]:
    return [event.data["state"] for event in of(uplink, EventKind.STATE)]


def test_training_goes_on_where_nothing_can_be_written(
    stage: Stage, undisturbed: Story, place: Place, tmp_path: Path
) -> None:
    gates = Gates(tmp_path, 7, 12, 22)

    async def disturb(uplink: MemoryUplink, cluster: Keep) -> None:
        await told(uplink, lambda: of(uplink, EventKind.CHECKPOINT))
        place.fail()
        gates.open(7)
        await told(uplink, lambda: of(uplink, EventKind.CHECKPOINT_FAILED))
        gates.open(12)
        # ten steps, and two checkpoints that were due
        await told(uplink, lambda: 21 in uplink.ledger)
        place.mend()
        gates.open(22)

    story = stage.run(
        **TWO,
        drive=disturb,
        checkpoints=place.url,
        checkpoint={"every_steps": 5, "every_s": None},
        config=gates.config,
    )
    assert_same(story, undisturbed)
    assert not story.of(EventKind.TRAINER_LOST)
    [failed] = story.of(EventKind.CHECKPOINT_FAILED)
    assert failed.data["step"] == 10
    assert place.reason in str(failed.data["reason"])
    made = [(event.data["step"], event.data["reason"]) for event in story.of(EventKind.CHECKPOINT)]
    assert made[0] == (5, "every 5 steps")
    # the share of step 20 may have waited to be written until there was room again
    assert made[1] in [(step, "every 5 steps") for step in (20, 25, 30, 35)], made
    assert made[-1] == (STEPS, "the end of training")
    assert CheckpointStore(place.url).found()[0].step == STEPS


def test_the_end_of_training_is_saved_once_there_is_room(
    stage: Stage, undisturbed: Story, place: Place, tmp_path: Path
) -> None:
    gates, after = Gates(tmp_path, STEPS - 1), tmp_path / "after"

    async def disturb(uplink: MemoryUplink, cluster: Keep) -> None:
        await told(uplink, lambda: STEPS - 2 in uplink.ledger)
        place.fail()
        gates.open(STEPS - 1)
        await told(uplink, lambda: of(uplink, EventKind.CHECKPOINT_FAILED))
        assert of(uplink, EventKind.FINISHED)
        assert not after.exists(), "the code after the loop has run before the state was saved"
        place.mend()

    story = stage.run(
        **TWO,
        drive=disturb,
        checkpoints=place.url,
        checkpoint={"every_s": None},
        config={**gates.config, "after": str(after)},
    )
    assert_same(story, undisturbed)
    [failed] = story.of(EventKind.CHECKPOINT_FAILED)
    assert place.reason in str(failed.data["reason"])
    [made] = story.of(EventKind.CHECKPOINT)
    assert (made.data["step"], made.data["reason"]) == (STEPS, "the end of training")
    store = CheckpointStore(place.url)
    assert [found.step for found in store.found()] == [STEPS]
    assert store.storage.exists("model/model.safetensors")
    assert len(after.read_text().splitlines()) == 1


def test_an_attempt_that_begins_while_the_store_is_away_waits_for_it(
    stage: Stage, undisturbed: Story, bucket: Bucket, tmp_path: Path
) -> None:
    gates, founded = Gates(tmp_path, 15), list[Event]()
    same: dict[str, Any] = {
        "checkpoints": bucket.url,
        "checkpoint": {"every_steps": 10, "every_s": None},
        "config": gates.config,
    }

    async def cancel(uplink: MemoryUplink, cluster: Keep) -> None:
        await told(uplink, lambda: of(uplink, EventKind.CHECKPOINT))
        uplink.command(Command(n=1, kind=CommandKind.CANCEL))
        await told(uplink, lambda: JobState.CANCELLED in states(uplink))
        gates.open(15)  # they have been told to end

    first = stage.run(**TWO, drive=cancel, **same)
    assert first.outcome.state is JobState.CANCELLED, first.outcome
    assert len(first.rows) <= 15

    async def mend(uplink: MemoryUplink, cluster: Keep) -> None:
        await told(uplink, lambda: of(uplink, EventKind.CHECKPOINT_FAILED))
        await told(uplink, lambda: of(uplink, EventKind.TRAINER_READY))
        founded.extend(of(uplink, EventKind.GENERATION))
        bucket.mend()

    bucket.fail()
    second = stage.run(trainers=1, drive=mend, stored_below=len(first.rows), **same)
    assert second.outcome.state is JobState.SUCCEEDED, second.outcome
    assert not founded, "who was wanted was ready, and a run was founded without its checkpoint"
    [failed] = second.of(EventKind.CHECKPOINT_FAILED)
    assert "could not be looked for" in str(failed.data["reason"])
    assert second.last(EventKind.RESTORED).data["step"] == 10
    assert first.ledger + second.ledger == undisturbed.ledger
    assert second.digest == undisturbed.digest


def test_what_need_not_be_kept_is_removed_though_the_attempt_has_ended(
    stage: Stage, undisturbed: Story, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The removal after the last checkpoint, where the storage is slow: the code after the loop returns before it begins."""
    ended, retain = threading.Event(), Catalogue.retain

    def late(own: Catalogue, committed: str) -> None:
        assert not committed.endswith(f"{STEPS}") or ended.wait(60)
        retain(own, committed)

    monkeypatch.setattr(Catalogue, "retain", late)

    async def wait(uplink: MemoryUplink, cluster: Keep) -> None:
        await told(uplink, lambda: JobState.SUCCEEDED in states(uplink))
        ended.set()

    story = stage.run(
        trainers=1,
        drive=wait,
        checkpoints=tmp_path,
        checkpoint={"every_steps": 10, "every_s": None, "keep": 1},
        config={"steps": STEPS, "computed": None},
    )
    assert ended.is_set()
    assert_same(story, undisturbed)
    assert not story.of(EventKind.WARNING)
    assert [found.step for found in CheckpointStore(str(tmp_path)).found()] == [STEPS]
