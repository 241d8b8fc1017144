"""A job's data on real trainers: one copy a node, the same bytes for all, and what is no longer the same is named."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import cast

import boto3
import pytest

from surefoot.events import Command, CommandKind, EventKind
from surefoot.spec import JobState
from surefoot_actors.protocol.membership.raising import judge
from surefoot_actors.protocol.membership.state import MembershipState
from surefoot_actors.protocol.messages import DataTold, Raised
from surefoot_actors.supervisor import stalls
from surefoot_actors.supervisor.data_news import DataNews
from surefoot_actors.uplink.memory import MemoryUplink

from ..s3 import BUCKET, s3_wire
from .harness import Keep, Stage, Story
from .test_matrix import assert_same


def _origin(tmp_path: Path) -> Path:
    origin = tmp_path / "origin"
    origin.mkdir()
    (origin / "a.bin").write_text("abc")
    return origin


@pytest.mark.process
@pytest.mark.slow
def test_trainers_of_a_node_share_one_copy(stage: Stage, undisturbed: Story, tmp_path: Path) -> None:
    """And a folder for what they make: one of them makes it. A replacement has both at once, and nobody asks where the data lay."""
    origin, seen, gate = _origin(tmp_path), tmp_path / "seen", tmp_path / "gate"

    async def drive(uplink: MemoryUplink, cluster: Keep) -> None:
        """The steps are not over before the replacement has come to them: it has noted then what it was given."""
        while not any(e.kind is EventKind.TRAINER_READY and e.data["trainer"] == "t2" for e in uplink.events):
            await uplink.changed()
        gate.touch()

    story = stage.run(
        trainers=2, min_trainers=2, entrypoint="reading:train", faults=["KILL@forward:t1:3"], drive=drive,
        config={"seen": str(seen), "gate": [4, str(gate)]}, env={"SUREFOOT_CACHE_DIR": str(tmp_path / "cache")},
        data={"train": {"url": str(origin), "copy": True}}, checkpoints=tmp_path / "job",
    )  # fmt: skip
    assert len(story.fired) == 1
    assert_same(story, undisturbed)
    noted = seen.read_text().splitlines()
    assert len(noted) == 3
    assert len(set(noted)) == 1
    assert noted[0].split()[0].startswith(str(tmp_path / "cache"))
    told = [event.data for event in story.of(EventKind.DATA)]
    assert [data["copied"] for data in told] == [False, True]
    assert {name: told[1][name] for name in ("name", "bytes", "files")} == {"name": "train", "bytes": 3, "files": 1}
    noted_beside = json.loads((tmp_path / "job" / "data" / "train.json").read_text())
    assert (noted_beside["digest"], list(noted_beside["files"])) == (told[1]["digest"], ["a.bin"])


@pytest.mark.process
@pytest.mark.slow
@pytest.mark.parametrize("noted", [True, False])
def test_whoever_has_other_data_does_not_train(stage: Stage, undisturbed: Story, tmp_path: Path, noted: bool) -> None:
    """The file is named, where the job has a place to note in what it trains on."""
    origin, seen, gate = _origin(tmp_path), tmp_path / "seen", tmp_path / "gate"
    ends = (EventKind.TRAINER_LOST, EventKind.TRAINER_REFUSED)

    async def drive(uplink: MemoryUplink, cluster: Keep) -> None:
        while not any("t2" in str(e.data.get("trainer")) for e in uplink.events if e.kind in ends):
            await uplink.changed()
        gate.touch()

    story = stage.run(
        trainers=2, min_trainers=1, entrypoint="reading:changed", faults=["KILL@forward:t1:3"], drive=drive,
        config={"seen": str(seen), "origin": str(origin), "gate": [4, str(gate)]},
        env={"SUREFOOT_CACHE_DIR": str(tmp_path / "cache")},
        data={"train": {"url": str(origin), "copy": True}}, checkpoints=tmp_path / "job" if noted else "",
    )  # fmt: skip
    assert_same(story, undisturbed)
    assert all("t2" not in cast(list[str], e.data["joined"] or ()) for e in story.of(EventKind.GENERATION))
    if not noted:
        refused = next(e.data for e in story.of(EventKind.TRAINER_REFUSED) if e.data["trainer"] == "t2")
        assert "another fingerprint: data train is" in str(refused["reason"])
        return
    lost = next(e.data for e in story.of(EventKind.TRAINER_LOST) if e.data["trainer"] == "t2")
    assert "data train: what lies at" in str(lost["reason"])
    assert "is no longer what this job trains on: a.bin has 4 bytes and had 3" in str(lost["reason"])
    assert "others have come past this line" in str(lost["reason"])
    assert len(seen.read_text().splitlines()) == 2


@pytest.mark.process
@pytest.mark.slow
def test_what_changes_in_place_is_told(stage: Stage, undisturbed: Story, tmp_path: Path) -> None:
    origin, seen = _origin(tmp_path), tmp_path / "seen"
    story = stage.run(
        trainers=2, min_trainers=2, entrypoint="reading:changed", faults=["KILL@forward:t1:3"],
        config={"seen": str(seen), "origin": str(origin)}, data={"train": str(origin)},
        env={"SUREFOOT_CACHE_DIR": str(tmp_path / "cache")}, checkpoints=tmp_path / "job",
    )  # fmt: skip
    assert_same(story, undisturbed)
    assert story.of(EventKind.DATA) == []
    [warning] = [str(e.data["message"]) for e in story.of(EventKind.WARNING) if "data train" in str(e.data["message"])]
    assert "trainer t2: data train at" in warning
    assert "is not what it was when the job began: a.bin has 4 bytes and had 3" in warning


@pytest.mark.process
@pytest.mark.slow
def test_a_node_that_cannot_hold_the_data_is_tried_elsewhere(stage: Stage, tmp_path: Path) -> None:
    """It is no mistake of the job's, however many trainers say so; but they are counted as any that are lost."""
    (tmp_path / "cache").write_text("a file")
    story = stage.run(
        trainers=1, max_failures=2, entrypoint="reading:train", env={"SUREFOOT_CACHE_DIR": str(tmp_path / "cache")},
        data={"train": {"url": str(_origin(tmp_path)), "copy": True}},
    )  # fmt: skip
    assert story.outcome.state is JobState.FAILED
    assert "3 times in a row a trainer was lost" in story.outcome.reason
    assert "it raised NodeError: there cannot be a cache at" in story.outcome.reason
    assert len(story.of(EventKind.TRAINER_LOST)) == 3


@pytest.mark.process
@pytest.mark.slow
@pytest.mark.parametrize("ends", [False, True])
def test_a_store_that_is_away_is_waited_for_and_a_cancel_is_not(
    stage: Stage, undisturbed: Story, tmp_path: Path, ends: bool
) -> None:
    """Its credentials are a secret, which trainers have before they look for the data."""
    with s3_wire() as wire:
        boto3.client("s3").put_object(Bucket=BUCKET, Key="data/a.bin", Body=b"abc")
        names = ("AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_DEFAULT_REGION", "AWS_MAX_ATTEMPTS")
        env = {name: os.environ[name] for name in names} | {"SUREFOOT_CACHE_DIR": str(tmp_path / "cache")}
        uplink = MemoryUplink()
        uplink.values = {"AWS_SECRET_ACCESS_KEY": "secret123"}
        wire.away.set()

        async def drive(uplink: MemoryUplink, cluster: Keep) -> None:
            while not any("cannot be read at present" in str(e.data.get("message")) for e in uplink.events):
                await uplink.changed()
            if ends:
                uplink.command(Command(n=1, kind=CommandKind.CANCEL))
            else:
                wire.away.clear()

        story = stage.run(
            entrypoint="reading:train", config={"seen": str(tmp_path / "seen")}, env=env, uplink=uplink, drive=drive,
            data={"train": f"s3://{BUCKET}/data"}, secrets={"AWS_SECRET_ACCESS_KEY": "KEY"},
        )  # fmt: skip
    assert wire.num_refused > 0
    assert not any("secret123" in event.model_dump_json() for event in story.events)
    if ends:
        assert story.outcome.state is JobState.CANCELLED
        assert not (tmp_path / "seen").exists()
    else:
        assert_same(story, undisturbed)
        assert story.last(EventKind.DATA).data["copied"]


def test_what_a_node_lacks_never_fails_the_job_by_itself() -> None:
    def of(trainer: str, *, elsewhere: bool) -> Raised:
        return Raised(trainer=trainer, kind="E", message="m", traceback="", line="a:1", elsewhere=elsewhere)

    state = MembershipState(
        num_sub_tasks=4, target=1, min_trainers=1, starting=("t1",), raises={"t0": of("t0", elsewhere=True)}
    )
    assert judge(state, of("t1", elsewhere=True)).fails is None
    mine = of("t1", elsewhere=False)
    assert judge(state, mine).fails == mine  # as if nobody had said anything before


@pytest.mark.unit
def test_copying_is_not_taken_for_hanging() -> None:
    told: list[tuple[object, dict[str, object]]] = []
    news = DataNews(lambda kind, **data: told.append((kind, data)))
    state = MembershipState(num_sub_tasks=4, target=2, min_trainers=1, starting=("t0", "t1"))
    watch = stalls.StallWatch()

    def look(now: float) -> list[object]:
        expected = stalls.awaited(state, None, (), ("t0", "t1"), copies=news.count, copying=news.copying)
        return list(watch.look(now, expected))

    news.hear(DataTold(trainer="t0", node="n", name="train", what="copying", bytes=9, files=2))
    assert look(0.0) == []
    for n in range(1, 10):
        news.hear(DataTold(trainer="t0", node="n", name="train", what="progress", bytes=n))
        assert look(n * (stalls.START_S - 1)) == []
    [first, second] = look(10 * stalls.START_S)  # not a byte more since
    assert "t0 copies data before run.steps() and has not come to it" in str(first)
    assert "t1 runs the code before run.steps()" in str(second)
    news.hear(DataTold(trainer="t0", node="n", name="train", what="copied", bytes=9, files=2, digest="d", seconds=1.0))
    news.hear(DataTold(trainer="t1", node="n", name="train", what="warning", message="odd"))
    assert [kind for kind, _ in told] == [EventKind.DATA, EventKind.DATA, EventKind.WARNING]
    assert told[1][1]["digest"] == "d"
    assert news.copying == set()
