"""Some of the programs on real trainers, in processes of their own: lost at exact points, replaced, paused, resumed by more of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from surefoot.events import Command, CommandKind, EventKind
from surefoot.local import LocalResult
from surefoot.spec import JobState
from surefoot_actors.local_run.run_local import run_local
from surefoot_actors.uplink.memory import MemoryUplink

from ..actors.harness import Keep, Stage, Story, staged
from ..actors.test_matrix import told
from .runner import LIBRARY, Program, load_library

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]

PROGRAMS = load_library()
# One for each kind of state that crosses from process to process: the library's other programs do so within one.
LOST = [
    "adamw_fused_channels_last",
    "one_tensor_in_many_places",
    "plateau_and_tensor_learning_rate",
    "group_added",
    "frozen_and_unfrozen",
    "extra_state",
    "drawing_transforms_workers",
]
PAUSED = ["adamw_fused_channels_last", "group_added", "plain_values"]
SEED = 7
# long enough for a replacement to come while training goes on
STEPS = 300


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    with staged(code=[LIBRARY]) as made:
        yield made


def alone(program: Program, steps: int) -> LocalResult:
    return run_local(
        program.train,
        config={"steps": steps, **program.config},
        batch_size=program.batch_size,
        sub_tasks=program.sub_tasks,
        seed=SEED,
    )


def fields(program: Program, steps: int) -> dict[str, Any]:
    return {
        "entrypoint": program.entrypoint,
        "config": {"steps": steps, "computed": None, **program.config},
        "batch_size": program.batch_size,
        "sub_tasks": program.sub_tasks,
        "data_workers": program.data_workers,
        "seed": SEED,
    }


def assert_same(story: Story, whole: LocalResult) -> None:
    assert story.outcome.state is JobState.SUCCEEDED, story.outcome
    assert story.ledger == [row.result.canonical() for row in whole.rows]
    assert story.digest == whole.digest


@pytest.mark.parametrize("name", LOST)
def test_a_program_whose_trainers_are_lost_and_replaced_ends_as_alone(stage: Stage, name: str) -> None:
    program = PROGRAMS[name]
    faults = ["KILL@exchange:t1:4", "KILL@backward:t2:*"]  # t2 comes in t1's place
    for _ in range(3):  # on a busy machine a short run may be over before t2 has come
        story = stage.run(trainers=2, min_trainers=2, faults=faults, **fields(program, STEPS))
        assert_same(story, alone(program, STEPS))
        if len(story.fired) == 2:
            break
    assert len(story.fired) == 2, story.fired
    joined = [e for e in story.of(EventKind.GENERATION) if "t2" in e.data["joined"]]
    assert joined, "nobody joined"


@pytest.mark.parametrize("name", PAUSED)
def test_a_program_paused_and_resumed_by_more_trainers_ends_as_alone(stage: Stage, name: str, tmp_path: Path) -> None:
    program, place, gate = PROGRAMS[name], tmp_path / "job", tmp_path / "gate"

    async def pause(uplink: MemoryUplink, cluster: Keep) -> None:
        await told(uplink, lambda: 5 in uplink.ledger)
        uplink.command(Command(n=1, kind=CommandKind.PAUSE))
        await told(uplink, lambda: any(e.data.get("state") == JobState.PAUSING for e in uplink.events))
        gate.touch()

    spec = fields(program, 12)
    spec["config"]["gate"] = [6, str(gate)]  # nobody passes step 6 before the pause is under way
    first = stage.run(trainers=2, min_trainers=2, drive=pause, checkpoints=place, **spec)
    assert first.outcome.state is JobState.PAUSED, first.outcome
    assert 5 < len(first.rows) < 12
    second = stage.run(trainers=3, min_trainers=3, checkpoints=place, stored_below=len(first.rows), **spec)
    whole = alone(program, 12)
    rows = [row.result.canonical() for row in (*first.rows, *second.rows)]
    assert rows == [row.result.canonical() for row in whole.rows]
    assert second.digest == whole.digest
