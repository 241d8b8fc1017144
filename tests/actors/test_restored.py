"""Jobs that begin from another job's checkpoint: the same bits go on, in a ledger of their own; or a refusal that says why."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from surefoot.events import EventKind
from surefoot.spec import JobState

from .harness import Stage, Story
from .test_matrix import assert_same

STEPS, START = 60, 40
CONFIG = {"steps": STEPS, "computed": None}


@pytest.fixture(scope="module")
def other(stage: Stage, tmp_path_factory: pytest.TempPathFactory) -> tuple[Story, Path]:
    """Another job, undisturbed, with a checkpoint every 20 steps."""
    folder = tmp_path_factory.mktemp("other")
    policy = {"every_steps": 20, "every_s": None, "keep": 10}
    story = stage.run(trainers=2, min_trainers=2, checkpoints=folder, checkpoint=policy, config=CONFIG, in_turn=True)
    return story, folder / f"step-{START:09d}"


@pytest.fixture
def begun(other: tuple[Story, Path], tmp_path: Path) -> Path:
    """That checkpoint, to be damaged."""
    return shutil.copytree(other[1], tmp_path / "copy")


@pytest.mark.parametrize("trainers", [1, 3])
def test_the_other_jobs_bits_go_on_in_a_ledger_that_begins_there(
    stage: Stage, other: tuple[Story, Path], tmp_path: Path, trainers: int
) -> None:
    undisturbed, checkpoint = other
    story = stage.run(
        trainers=trainers, min_trainers=trainers, checkpoints=tmp_path, restore=str(checkpoint), config=CONFIG
    )
    assert story.outcome.state is JobState.SUCCEEDED, story.outcome
    restored = story.last(EventKind.RESTORED).data
    assert restored["step"] == restored["first_step"] == START
    assert story.ledger == undisturbed.ledger[START:]
    assert story.digest == undisturbed.digest
    assert story.of(EventKind.WARNING) == [], "rows were missed that are another job's"


def test_its_own_checkpoints_go_before_and_are_no_beginning(
    stage: Stage, other: tuple[Story, Path], tmp_path: Path
) -> None:
    """The second attempt goes on from the first one's; with all of those damaged, from the other job's again."""
    undisturbed, checkpoint = other
    policy = {"every_steps": 5, "every_s": None, "keep": 1, "final": False}
    again: dict[str, Any] = {
        "checkpoints": tmp_path,
        "checkpoint": policy,
        "restore": str(checkpoint),
        "in_turn": True,
    }
    stage.run(trainers=1, config=CONFIG, **again)
    [own] = tmp_path.glob("step-*")
    newest = int(own.name.removeprefix("step-"))
    story = stage.run(trainers=1, config=CONFIG, stored_below=newest, **again)
    assert story.last(EventKind.RESTORED).data["url"] == str(own)
    assert "first_step" not in story.last(EventKind.RESTORED).data
    # the second attempt may have committed a newer one, which takes the first one's place
    damaged = [lose(checkpoint) for checkpoint in tmp_path.glob("step-*")]
    story = stage.run(trainers=1, config=CONFIG, **again)
    assert len(story.of(EventKind.CHECKPOINT_SKIPPED)) == len(damaged) > 0
    assert story.last(EventKind.RESTORED).data["url"] == str(checkpoint)
    assert story.ledger == undisturbed.ledger[START:]


def test_who_does_not_see_a_checkpoint_that_is_there_is_replaced(
    stage: Stage, other: tuple[Story, Path], tmp_path: Path
) -> None:
    """One node without the mount does not decide that everybody begins from an older checkpoint, or from step 0."""
    place = shutil.copytree(other[1].parent, tmp_path / "job")
    again: dict[str, Any] = {
        "checkpoints": place,
        "trainers": 2,
        "min_trainers": 2,
        "stored_below": START,
        "config": CONFIG,
    }
    newest = place / f"step-{STEPS:09d}"
    shutil.rmtree(newest)  # that of the end
    story = stage.run(entrypoint="no_mount:train", **again)
    assert (tmp_path / "job.blind").exists(), "nobody was blind"
    [lost] = story.of(EventKind.TRAINER_LOST)
    assert "is its storage mounted? /not-mounted/" in str(lost.data["reason"])
    assert story.of(EventKind.CHECKPOINT_SKIPPED) == []
    assert story.last(EventKind.RESTORED).data["step"] == START
    assert story.ledger == other[0].ledger[START:]


def lose(checkpoint: Path) -> str:
    victim = next(checkpoint.glob("*.safetensors"))
    victim.unlink()
    return f"{victim} is missing"


def corrupt(checkpoint: Path) -> str:
    victim = next(checkpoint.glob("*.safetensors"))
    data = bytearray(victim.read_bytes())
    data[-1] ^= 1
    victim.write_bytes(data)
    return f"{victim} is corrupt"


def lose_all(checkpoint: Path) -> str:
    shutil.rmtree(checkpoint)
    return f"there is no checkpoint at {checkpoint}"


def tell(sentence: str) -> Callable[[Path], str]:
    return lambda _: sentence


REFUSED: dict[str, tuple[dict[str, Any], Callable[[Path], str]]] = {
    "another seed": ({"seed": 8}, tell("was made with seed 7, this job has seed 8")),
    "another number of sub-tasks": ({"sub_tasks": 4}, tell("was made with sub_tasks 8, this job has sub_tasks 4")),
    "another batch": ({"batch_size": 16}, tell("was made with batch_size 32, this job has batch_size 16")),
    "another model": (
        {"entrypoint": "small:train", "config": {**CONFIG, "width": 32}},
        tell("model.0.weight is torch.float32 (32, 12) here, torch.float32 (24, 12) in the saved state"),
    ),
    "another optimizer": ({"config": {**CONFIG, "optimizer": "sgd"}}, tell("is of another model than this job's code")),
    "a missing file": ({}, lose),
    "a corrupt file": ({}, corrupt),
    "nothing there": ({}, lose_all),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_or_is_damaged_is_refused_and_named(
    stage: Stage, begun: Path, tmp_path: Path, case: str
) -> None:
    spec, prepare = REFUSED[case]
    expected = prepare(begun)
    story = stage.run(
        **{"trainers": 2, "config": CONFIG, "checkpoints": tmp_path / "job", "restore": str(begun), **spec}
    )
    assert story.outcome.state is JobState.FAILED
    assert expected in story.outcome.reason
    assert expected in str(story.last(EventKind.FAILED).data["reason"])
    assert story.rows == [], "it trained all the same"


def test_a_restored_run_is_an_undisturbed_one(stage: Stage, other: tuple[Story, Path]) -> None:
    """What the others are held against is itself right."""
    assert_same(other[0], stage.run(trainers=1, config=CONFIG))
