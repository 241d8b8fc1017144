"""Snapshots that a loss tears: never seen by a restore, and never in training's way."""

from __future__ import annotations

from pathlib import Path

import pytest

from surefoot.events import EventKind
from surefoot_actors.checkpoint.store import MANIFEST, CheckpointStore, read_manifest

from .harness import Stage, Story
from .test_matrix import assert_same

POLICY = {"every_steps": 4, "every_s": None, "keep": 9}
CONFIG = {"steps": 13, "computed": None}


@pytest.fixture(scope="module")
def whole(stage: Stage) -> Story:
    return stage.run(trainers=1, config=CONFIG)


@pytest.mark.parametrize("fault", ["KILL@snapshot:t1:7", "KILL@save:t1:7", "KILL@save:t0:7"])
def test_a_trainer_is_lost_in_the_middle_of_a_snapshot(stage: Stage, whole: Story, tmp_path: Path, fault: str) -> None:
    # the one before is made by then: while it is not, none is begun
    config = CONFIG | {"gate": [6, str(tmp_path / "step-000000004" / MANIFEST)]}
    story = stage.run(
        trainers=2, min_trainers=2, faults=[fault], checkpoints=tmp_path, checkpoint=POLICY, config=config
    )
    assert len(story.fired) == 1
    assert_same(story, whole)
    made = {int(str(event.data["step"])): str(event.data["url"]) for event in story.of(EventKind.CHECKPOINT)}
    assert {4, 13} <= made.keys() <= {4, 8, 12, 13}
    # what is told is what a restore finds: of a torn one not even leftovers
    assert {f.step: f.url for f in CheckpointStore(str(tmp_path)).found()} == made
    assert {int(folder.name[5:]) for folder in tmp_path.glob("step-*")} == made.keys()
    [after] = [event for event in story.of(EventKind.GENERATION) if event.data["lost"]]
    if 8 in made:
        # The generation that was torn has none. The next one has, where the other trainer had not come to the end of step 7 by then:
        # that end is one of the next generation's, whose members all save at it.
        assert int(str(after.data["step"])) < 8
        assert {share.generation for share in read_manifest(made[8]).shares} == {after.data["generation"]}
