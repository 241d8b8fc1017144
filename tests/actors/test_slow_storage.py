"""Storage that is slower than checkpoints are due."""

from __future__ import annotations

from pathlib import Path

import pytest

from surefoot.events import EventKind
from surefoot_actors.uplink.memory import MemoryUplink

from .harness import Keep, Stage
from .test_matrix import assert_same, told

# steps; how long a write may take (jobs/slow_disk.py)
STEPS, LONGEST_WRITE_S = 300, 0.12


def test_members_save_together_or_not_at_all(stage: Stage, tmp_path: Path) -> None:
    """Members that each skip while their own write runs would soon never save the same step: of 400 that are due 3 became whole."""
    config = {"steps": STEPS, "computed": None, "plain": True}
    story = stage.run(
        trainers=3,
        min_trainers=3,
        entrypoint="slow_disk:train",
        checkpoints=tmp_path,
        checkpoint={"every_steps": 1, "every_s": None, "keep": 1000, "final": False},
        config=config,
    )
    assert_same(story, stage.run(trainers=1, config=config))
    steps = [int(str(event.data["step"])) for event in story.of(EventKind.CHECKPOINT)]
    at = [row.circumstances.at for row in story.rows]
    # as many as writes of the longest kind fit, one after the other, with a step for each to be seen to be over; half, for a busy machine
    fit = (at[-1] - at[0]) / (LONGEST_WRITE_S + 2 * (at[-1] - at[0]) / STEPS)
    assert len(steps) >= fit / 2, f"{len(steps)} are whole, and {fit:.0f} fit"
    written = {path.parent.name for path in tmp_path.glob("step-*/*.safetensors")}
    torn = written - {f"step-{step:09d}" for step in steps}
    assert len(torn) <= 1, f"shares of snapshots that never became whole: {sorted(torn)}"


@pytest.mark.parametrize("steps", [29, 26])
def test_in_place_of_one_that_was_due_meanwhile_another_is_made_as_soon_as_can_be(
    stage: Stage, tmp_path: Path, steps: int
) -> None:
    """The first one is written until step 24 is committed: in place of that of step 20 there is one of the next step, not of step 30.

    Where that step is the last, the end of training makes up for it.
    """
    written, gate = tmp_path / "written", tmp_path / "gate"

    async def open_gates(uplink: MemoryUplink, cluster: Keep) -> None:
        await told(uplink, lambda: 24 in uplink.ledger)
        written.touch()
        await told(uplink, lambda: any(event.kind is EventKind.CHECKPOINT for event in uplink.events))
        gate.touch()

    story = stage.run(
        trainers=2,
        min_trainers=2,
        entrypoint="slow_disk:train",
        drive=open_gates,
        checkpoints=tmp_path / "job",
        checkpoint={"every_steps": 10, "every_s": None, "keep": 9},
        env={"FIRST_WRITE": str(written)},
        config={"steps": steps, "gate": [25, str(gate)]},
    )
    made = [(event.data["step"], event.data["reason"]) for event in story.of(EventKind.CHECKPOINT)]
    owed = [(26, "every 10 steps")] if steps > 26 else []
    assert made == [(10, "every 10 steps"), *owed, (steps, "the end of training")]
