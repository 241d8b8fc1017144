"""Data workers of real trainers that are killed: the loss of a worker, or of a trainer, never a job that fails for one of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from surefoot.events import EventKind
from surefoot.spec import JobState

from .harness import Stage

SAME: dict[str, Any] = {"entrypoint": "loading:train", "trainers": 2, "min_trainers": 2}


def test_a_killed_data_worker_is_no_loss_of_the_trainer(stage: Stage, tmp_path: Path) -> None:
    mark = tmp_path / "killed"
    undisturbed = stage.run(**SAME, config={"mark": str(mark)})
    assert not mark.exists()
    story = stage.run(**SAME, data_workers=1, config={"mark": str(mark)})
    assert mark.exists(), "no data worker was killed"
    assert story.outcome.state is JobState.SUCCEEDED, story.outcome
    assert story.ledger == undisturbed.ledger
    assert story.digest == undisturbed.digest
    assert len(story.of(EventKind.GENERATION)) == 1


def test_data_workers_that_are_killed_for_ever_are_the_trainers_loss(stage: Stage) -> None:
    """Another trainer has a try; when it goes the same way the job fails, and names the sub-task."""
    story = stage.run(**SAME, data_workers=1, config={"mark": "always"}, within_s=60.0)
    assert story.outcome.state is JobState.FAILED
    assert len(story.of(EventKind.GENERATION)) > 1
    assert "sub-task" in story.outcome.reason, story.outcome
    logs = "".join(path.read_text() for path in stage.folder.glob("*.log"))
    assert "DataWorkersLostError" in logs
    assert "each while it loaded the samples" in logs
