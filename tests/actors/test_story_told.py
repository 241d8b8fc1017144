"""A fault of Surefoot's own, made on purpose: what its machine was fed last is in the trainer's log and in what the supervisor tells."""

from __future__ import annotations

from surefoot.events import EventKind
from surefoot.spec import JobState
from surefoot_actors.story import NUM_KEPT

from .harness import Stage


def test_an_assertion_that_fails_in_a_trainer_tells_its_story(stage: Stage) -> None:
    told = stage.run(trainers=1, entrypoint="raising:breaks_surefoot", config={"steps": 12})
    assert told.outcome.state is JobState.FAILED
    assert "a fault of Surefoot: trainer t0: AssertionError('broken on purpose" in told.outcome.reason
    story = told.last(EventKind.FAILED).data["story"]
    assert isinstance(story, list)
    # the machine is fed a leaf a sub-task, and a few events a round besides
    assert 20 < len(story) <= NUM_KEPT
    assert "LeafMade" in str(story[-1])
    assert any("->" in str(line) for line in story)
    logs = "".join(log.read_text(errors="replace") for log in stage.folder.glob("*.log"))
    assert all(str(line) in logs for line in story)
