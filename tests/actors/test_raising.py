"""What user code raises on one trainer alone, and what it raises on all, on real processes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from surefoot.events import EventKind
from surefoot.spec import JobState
from surefoot_actors.uplink.memory import MemoryUplink

from .harness import Keep, Stage, Story
from .test_failures import kill, of
from .test_matrix import assert_same, told

STEPS = 10


@pytest.fixture(scope="module")
def undisturbed(stage: Stage) -> Story:
    return stage.run(trainers=1, entrypoint="raising:train", config={"steps": STEPS})


def test_a_replacement_that_raises_where_others_train_is_a_lost_trainer(
    stage: Stage, undisturbed: Story, tmp_path: Path
) -> None:
    """Its data is not there: told with the traceback, and tried again till it is."""
    table, away, gate = tmp_path / "table.pt", tmp_path / "away.pt", tmp_path / "gate"
    torch.save(torch.ones(1), table)

    async def take_the_table_away(uplink: MemoryUplink, cluster: Keep) -> None:
        await told(uplink, lambda: 3 in uplink.ledger)
        table.rename(away)
        kill(uplink, ["t2"])
        await told(uplink, lambda: any("traceback" in e.data for e in of(uplink, EventKind.TRAINER_LOST)))
        away.rename(table)
        await told(uplink, lambda: "t4" in [e.data["trainer"] for e in of(uplink, EventKind.TRAINER_READY)])
        gate.touch()

    story = stage.run(
        trainers=3,
        min_trainers=3,
        entrypoint="raising:train",
        config={"steps": STEPS, "table": str(table), "gate": [6, str(gate)]},
        drive=take_the_table_away,
    )
    assert_same(story, undisturbed)
    [lost] = [event for event in story.of(EventKind.TRAINER_LOST) if "traceback" in event.data]
    assert lost.data["trainer"] == "t3"
    assert "FileNotFoundError" in str(lost.data["reason"])
    assert "raising.py:" in str(lost.data["reason"])
    assert 'torch.load(run.config["table"])' in str(lost.data["traceback"])


@pytest.mark.parametrize(("place", "step"), [("sub-task", 4), ("step", 4), ("after", 0)])
def test_what_one_trainer_alone_raises_is_its_loss(
    stage: Stage, undisturbed: Story, tmp_path: Path, place: str, step: int
) -> None:
    mark = tmp_path / "mark"
    config = {"steps": STEPS, "raises": [place, step, str(mark)]}
    story = stage.run(trainers=2, min_trainers=2, entrypoint="raising:train", config=config)
    assert mark.exists(), "nobody raised"
    assert_same(story, undisturbed)
    [lost] = story.of(EventKind.TRAINER_LOST)
    assert "OSError: [Errno 28] No space left on device" in str(lost.data["reason"])
    assert "in once" in str(lost.data["traceback"])
    states = [event.data["state"] for event in story.of(EventKind.STATE)]
    assert ("recovering" in states) is (place != "after")


def test_with_one_trainer_what_it_raises_fails_the_job(stage: Stage, tmp_path: Path) -> None:
    config = {"steps": STEPS, "raises": ["sub-task", 4, str(tmp_path / "mark")]}
    story = stage.run(trainers=1, entrypoint="raising:train", config=config)
    assert story.outcome.state is JobState.FAILED
    assert "No space left on device" in story.outcome.reason


@pytest.mark.parametrize("trainers", [1, 2])
def test_sys_exit_is_told_as_such_with_its_line(stage: Stage, trainers: int) -> None:
    story = stage.run(trainers=trainers, min_trainers=trainers, entrypoint="raising:leaves")
    assert story.outcome.state is JobState.FAILED
    assert "called sys.exit(0) at raising.py:" in story.outcome.reason
    assert "return" in story.outcome.reason
    assert "sys.exit(0)" in str(story.last(EventKind.FAILED).data["traceback"])


def test_code_that_ends_the_process_fails_the_job_with_the_second_trainer(stage: Stage) -> None:
    story = stage.run(trainers=2, min_trainers=2, entrypoint="raising:ends_the_process")
    assert story.outcome.state is JobState.FAILED
    assert "killed two trainers" in story.outcome.reason
    assert "exited with code 3" in story.outcome.reason
