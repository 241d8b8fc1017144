"""Snapshots that a loss tears: never seen by a restore, and never in training's way."""

from __future__ import annotations

from pathlib import Path

import pytest

from surefoot.events import EventKind
from surefoot_actors.checkpoint.store import CheckpointStore

from .harness import Stage, Story
from .test_matrix import assert_same

POLICY = {"every_steps": 4, "every_s": None, "keep": 1}
CONFIG = {"steps": 13, "computed": None}


@pytest.fixture(scope="module")
def whole(stage: Stage) -> Story:
    return stage.run(trainers=1, config=CONFIG)


@pytest.mark.parametrize("fault", ["KILL@snapshot:t1:7", "KILL@save:t1:7", "KILL@save:t0:7"])
def test_a_trainer_is_lost_in_the_middle_of_a_snapshot(stage: Stage, whole: Story, tmp_path: Path, fault: str) -> None:
    story = stage.run(
        trainers=2, min_trainers=2, faults=[fault], checkpoints=tmp_path, checkpoint=POLICY, config=CONFIG
    )
    assert len(story.fired) == 1
    assert_same(story, whole)
    made = [event.data["step"] for event in story.of(EventKind.CHECKPOINT)]
    # where the other had not come to that step's end, the next generation makes it, and a whole checkpoint at its end
    made_anew = any(event.data["lost"] and event.data["step"] < 8 for event in story.of(EventKind.GENERATION))
    assert 8 not in made or made_anew, "a torn checkpoint was made"
    assert made[-1] == 13
    found = [f.step for f in CheckpointStore(str(tmp_path)).found()]
    assert found[0] == 13
    assert 8 not in found
