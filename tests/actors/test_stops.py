"""Training that ends early, or is counted in epochs, on real trainers under losses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from surefoot.events import EventKind
from surefoot.spec import JobState

from .harness import Stage, Story


def run(stage: Stage, entrypoint: str, place: Path, **spec: Any) -> Story:
    place.mkdir(exist_ok=True)
    config = {"after": str(place / "after"), "mark": str(place / "mark")}
    return stage.run(entrypoint=f"stops:{entrypoint}", config=config, **spec)


@pytest.mark.parametrize("entrypoint", ["early", "epochs"])
@pytest.mark.parametrize(
    "fault", ["KILL@forward:t1:2", "KILL@boundary:t0:4", "KILL@gather:t2:4", "KILL@conclude:t0:*"], ids=str
)
def test_the_end_is_the_same_under_losses(stage: Stage, entrypoint: str, fault: str, tmp_path: Path) -> None:
    one = run(stage, entrypoint, tmp_path / "one", trainers=1)
    assert one.outcome.state is JobState.SUCCEEDED, one.outcome
    assert 5 < len(one.rows) < 100
    assert one.last(EventKind.FINISHED).data["steps"] == len(one.rows)
    story = run(stage, entrypoint, tmp_path / "three", trainers=3, min_trainers=3, faults=[fault])
    assert story.outcome.state is JobState.SUCCEEDED, story.outcome
    assert len(story.fired) == 1
    assert story.ledger == one.ledger
    assert story.digest == one.digest
    assert len((tmp_path / "three" / "after").read_text().splitlines()) == 1
    why = "every step is committed" if entrypoint == "epochs" else "the training code ended it"
    assert one.outcome.reason == story.outcome.reason == f"{why} and the train function returned"
    if entrypoint == "epochs":
        assert one.last(EventKind.LENGTH).data["num_steps"] == len(one.rows)
        assert "accuracy" in one.rows[-1].result.values


@pytest.mark.parametrize("name", ["loss", "accuracy"])
def test_a_target_ends_it_with_the_same_step_and_bytes_under_losses(
    stage: Stage, undisturbed: Story, name: str
) -> None:
    """One trainer that is killed begins again; of three the others go on. The losses are at the very step that meets the target."""
    values = {row.result.step: row.result.values[name] for row in undisturbed.rows[:-1] if name in row.result.values}
    highest = max(values.values())
    met = min(step for step, value in values.items() if value == highest)
    assert met > 0
    spec: dict[str, Any] = {"target": f"{name}>={highest!r}"}
    one = stage.run(trainers=1, faults=[f"KILL@forward:t0:{met}"], **spec)
    three = stage.run(
        trainers=3,
        min_trainers=3,
        faults=[f"KILL@gather:t1:{met}", f"KILL@boundary:t2:{met}", "KILL@conclude:t0:*"],
        **spec,
    )
    for story, fired in ((one, 1), (three, 3)):
        assert story.outcome.state is JobState.SUCCEEDED, story.outcome
        assert len(story.fired) == fired, story.fired
        assert story.ledger == undisturbed.ledger[: met + 1]
        assert story.last(EventKind.FINISHED).data["steps"] == met + 1
        assert story.outcome.reason == f"the target {spec['target']} was met and the train function returned"
    assert one.digest == three.digest != undisturbed.digest


def test_everyone_lost_after_the_end_makes_no_step_more(stage: Stage, tmp_path: Path) -> None:
    one = run(stage, "early", tmp_path / "one", trainers=1)
    story = run(
        stage, "early", tmp_path / "two", trainers=2, min_trainers=2, checkpoints=tmp_path / "checkpoints",
        faults=["KILL@conclude:t0:*", "KILL@conclude:t1:*"],
    )  # fmt: skip
    assert story.outcome.state is JobState.SUCCEEDED, story.outcome
    assert len(story.fired) == 2
    assert story.ledger == one.ledger
    assert story.digest == one.digest


def test_a_local_decision_is_told_as_such(stage: Stage, tmp_path: Path) -> None:
    story = run(stage, "alone", tmp_path, trainers=3, min_trainers=3)
    assert story.outcome.state is JobState.FAILED
    assert "another is in another inner loop, or has left the loop over run.steps()" in story.outcome.reason
    assert "decide by step.number, step.every(n) or step.merged" in story.outcome.reason
    assert "the inner loop at stops.py:" in story.outcome.reason
