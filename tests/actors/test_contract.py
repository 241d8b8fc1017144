"""Misuse over real trainers: an error that names the line and the mend, never a hang, never a run that goes on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from surefoot.events import EventKind
from surefoot.spec import JobState

from .harness import JOBS, Stage, Story

# Generous: an attempt with misuse takes about a second.
WITHIN_S = 180.0

# name: what the message must say, the mend included
CASES: dict[str, tuple[str, ...]] = {
    "breaks_early": ("optimizer.step()", "inner loop", "has not ended", "break"),
    "steps_inside": ("optimizer.step()", "inner loop", "move it after the loop"),
    "logs_sometimes": ("log loss", "log the same names"),
    "logs_by_sub_task": ("mine", "yours", "log the same names"),
    "tracks_nothing": ("nothing is tracked", "run.track("),
    "logs_a_vector": ("loss", "shape (4,)", "its mean or sum"),
    "buffer_changes_shape": ("model.seen", "shape"),
    "other_number_of_steps": ("run.steps(4)", "run.steps(6)", "run.config"),
    "rounds_by_rank": ("step.evaluate()", "same inner loops", "decide by step.number", "the inner loop at misuse.py:"),
    "iterable": ("map-style", "__len__ and __getitem__"),
    "other_length": ("64 samples", "96 samples", "same dataset"),
    "other_order": ("order: range(0, 64)", "order: 3 indices", "same dataset"),
    "leaves_the_loop": ("run.steps(9)", "run.stop()"),
    "tracks_no_model": ("other (Linear) is not tracked", "run.track(other=other"),
    "other_model": ("model.0.weight", "same objects"),
}


@pytest.fixture
def fail(stage: Stage, tmp_path: Path) -> Callable[..., Story]:
    def run(name: str, trainers: int) -> Story:
        story = stage.run(
            entrypoint=f"misuse:{name}",
            trainers=trainers,
            min_trainers=trainers,
            config={"folder": str(tmp_path), "computed": None},
            within_s=WITHIN_S,
        )
        assert story.outcome.state is JobState.FAILED, story.outcome
        return story

    return run


def line_of(name: str) -> str | None:
    """Return "misuse.py:12", the line of the function that is marked."""
    inside = False
    for number, text in enumerate((JOBS / "misuse.py").read_text().splitlines(), 1):
        inside = text.startswith(f"def {name}(") if text.startswith(("def ", "class ")) else inside
        if inside and text.endswith("# MARK"):
            return f"misuse.py:{number}"
    return None


@pytest.mark.parametrize("trainers", [2, 3])
@pytest.mark.parametrize("name", CASES)
def test_misuse_fails_the_job_naming_line_and_mend(fail: Callable[..., Story], name: str, trainers: int) -> None:
    story = fail(name, trainers)
    data = story.last(EventKind.FAILED).data
    reason = str(data["reason"])
    for word in CASES[name]:
        assert word in reason, reason
    line = line_of(name)
    if line is not None:
        assert line in reason, reason
    assert reason.startswith("ContractError")
    assert reason in story.outcome.reason


@pytest.mark.parametrize("trainers", [2, 3])
def test_drift_names_the_tensor(fail: Callable[..., Story], trainers: int) -> None:
    data = fail("drifts", trainers).last(EventKind.FAILED).data
    assert "DriftError" in str(data["traceback"])
    assert "model.bias" in str(data["reason"])
    assert "surefoot check" in str(data["reason"])
