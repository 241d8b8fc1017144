"""What is prepared once: by one trainer while the others wait, never again by those that come later."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from surefoot.events import EventKind
from surefoot.spec import JobState
from surefoot_actors.uplink.memory import MemoryUplink

from .harness import Keep, Stage, Story
from .test_failures import kill, of
from .test_matrix import assert_same, told

STEPS = 8


def notes(folder: Path, what: str) -> list[str]:
    return [line for line in (folder / "notes").read_text().splitlines() if line.startswith(what)]


def run(stage: Stage, folder: Path, *, trainers: int, drive: Any = None, **config: Any) -> Story:
    folder.mkdir(exist_ok=True)
    config = {"steps": STEPS, "path": str(folder / "rows"), "notes": str(folder / "notes"), **config}
    return stage.run(trainers=trainers, min_trainers=trainers, entrypoint="preparing:train", config=config, drive=drive)


@pytest.fixture(scope="module")
def undisturbed(stage: Stage, tmp_path_factory: pytest.TempPathFactory) -> Story:
    return run(stage, tmp_path_factory.mktemp("undisturbed"), trainers=1)


@pytest.mark.parametrize("node", [False, True], ids=["once", "node_once"])
def test_one_prepares_and_a_replacement_does_not(stage: Stage, undisturbed: Story, tmp_path: Path, node: bool) -> None:
    """Who prepared is gone when the replacement comes; random states before and after are those of one that waited."""
    gate = tmp_path / "gate"

    async def replace_one(uplink: MemoryUplink, cluster: Keep) -> None:
        await told(uplink, lambda: 3 in uplink.ledger)
        kill(uplink, ["t0"])
        await told(uplink, lambda: "t3" in [e.data["trainer"] for e in of(uplink, EventKind.TRAINER_READY)])
        gate.touch()

    story = run(stage, tmp_path, trainers=3, drive=replace_one, node=node, gate=str(gate))
    assert_same(story, undisturbed)
    assert len(notes(tmp_path, "prepared")) == len(notes(tmp_path, "began")) == 1


@pytest.mark.parametrize("node", [False, True], ids=["once", "node_once"])
def test_who_dies_at_it_is_followed_by_another(stage: Stage, undisturbed: Story, tmp_path: Path, node: bool) -> None:
    story = run(stage, tmp_path, trainers=2, node=node, dies=str(tmp_path / "mark"))
    assert_same(story, undisturbed)
    assert len(notes(tmp_path, "prepared")) == 1
    assert len(notes(tmp_path, "began")) == 2
    assert len(story.of(EventKind.TRAINER_LOST)) == 1


def test_what_it_raises_fails_the_job_once_a_second_one_has_raised_it(stage: Stage, tmp_path: Path) -> None:
    story = run(stage, tmp_path, trainers=2, raises=True)
    assert story.outcome.state is JobState.FAILED
    assert story.outcome.reason == "FileNotFoundError: the source of the data"
    assert len(notes(tmp_path, "began")) == 2


def test_after_steps_it_is_refused_at_its_line(stage: Stage) -> None:
    story = stage.run(trainers=2, min_trainers=2, entrypoint="preparing:late")
    assert story.outcome.state is JobState.FAILED
    assert "run.once() at preparing.py:" in story.outcome.reason
    assert "comes after run.steps()" in story.outcome.reason
