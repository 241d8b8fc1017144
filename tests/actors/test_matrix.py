"""Show 2: a matrix of losses. Each asserts that the fault fired, and that the run ended as if it had not."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from surefoot.events import Command, CommandKind, EventKind
from surefoot.spec import JobState
from surefoot_actors.supervisor.trainer_link import COLLECT_S
from surefoot_actors.uplink.memory import MemoryUplink

from .harness import Keep, Stage, Story

SUB_TASKS = 8


def assert_same(story: Story, undisturbed: Story) -> None:
    assert story.outcome.state is JobState.SUCCEEDED, story.outcome
    assert story.ledger == undisturbed.ledger
    assert story.digest == undisturbed.digest


def assert_recovered(story: Story, undisturbed: Story, *, fired: int, spans: int) -> None:
    """`spans`: how many sub-tasks the lost trainers owned, at most, of the rounds they were lost in."""
    assert len(story.fired) == fired, story.fired
    assert_same(story, undisturbed)
    assert story.computed, "without a note of what was computed nothing is known of what was computed again"
    assert story.computed_twice <= spans
    assert not story.again_by_survivors, "a sub-task was computed again although a trainer held it that was not lost"


@pytest.mark.parametrize("trainers", [2, 3, 4])
def test_any_number_of_trainers_makes_the_same_bytes(stage: Stage, undisturbed: Story, trainers: int) -> None:
    story = stage.run(trainers=trainers, min_trainers=trainers)
    assert_same(story, undisturbed)
    assert story.computed_twice == 0
    assert len(story.of(EventKind.GENERATION)) == 1


@pytest.mark.parametrize("trainers", [2, 3])
def test_sub_tasks_need_be_no_power_of_two(stage: Stage, trainers: int) -> None:
    one = stage.run(trainers=1, sub_tasks=7, batch_size=28, config={"optimizer": "sgd"})
    story = stage.run(trainers=trainers, min_trainers=trainers, sub_tasks=7, batch_size=28, config={"optimizer": "sgd"})
    assert_same(story, one)


# A trainer of three owns at most 3 of the 8 sub-tasks.
ONE = [
    "KILL@start:t1:-1",
    "KILL@hello:t1:-1",
    "KILL@forward:t1:3",
    "KILL@backward:t1:3",
    "KILL@exchange:t1:3",
    "KILL@gather:t1:3",
    "KILL@commit:t1:3",
    "KILL@boundary:t1:3",
    "KILL@join:t1:*",
    "KILL@conclude:t0:8",
    # the member that hosts the store and tells the rows
    "KILL@exchange:t0:3",
    "KILL@gather:t0:3",
    "KILL@boundary:t0:7",
    "STOP@exchange:t1:3",
    "STOP@exchange:t0:3",
]


@pytest.mark.parametrize("fault", ONE)
def test_one_of_three_is_lost(stage: Stage, undisturbed: Story, fault: str) -> None:
    story = stage.run(trainers=3, min_trainers=3, faults=[fault])
    assert_recovered(story, undisturbed, fired=1, spans=3)


@pytest.mark.parametrize("fault", ["KILL@exchange:t0:3", "KILL@gather:t0:3", "KILL@gather:t1:3", "STOP@gather:t2:3"])
def test_one_is_lost_between_the_two_phases_of_a_big_vector(stage: Stage, undisturbed: Story, fault: str) -> None:
    """A vector as small as this one goes in one phase, which has no all-gather that a loss could cut."""
    story = stage.run(trainers=3, min_trainers=3, faults=[fault], config={"two_phases": True})
    assert_recovered(story, undisturbed, fired=1, spans=3)


TWO = [
    ("KILL@forward:t1:3", "KILL@forward:t2:3"),
    ("KILL@exchange:t0:3", "KILL@exchange:t2:3"),
    ("KILL@gather:t1:3", "KILL@gather:t3:3"),
    # during the recovery from another loss
    ("KILL@exchange:t1:3", "KILL@report:t2:*"),
    ("KILL@backward:t1:3", "KILL@enter:t0:3"),
    # a joiner that is lost while joining, in place of a lost one
    ("KILL@exchange:t1:2", "KILL@join:t4:*"),
]


@pytest.mark.parametrize("faults", TWO, ids=" ".join)
def test_two_of_four_are_lost(stage: Stage, undisturbed: Story, faults: tuple[str, str]) -> None:
    steps: dict[str, Any] = {}
    if "join" in faults[1]:
        # long enough for a replacement to come
        steps = {"steps": 200}
        undisturbed = stage.run(trainers=1, config=steps)
    for _ in range(3):
        story = stage.run(trainers=4, min_trainers=4, faults=list(faults), config=steps)
        # t0 may still be about to commit step 2 when t1 is lost in step 3; it enters the next generation from there, and is not lost
        if "enter" not in faults[1] or len(story.fired) == 2:
            break
    # whoever has the merge passes it on: the second to come to the gather may be given it before, and never come there
    fired = 2 if "gather" not in faults[1] else len(story.of(EventKind.TRAINER_LOST))
    assert fired in (1, 2)
    # two sub-tasks of each; the second may have computed what it was given of the first's before it was lost itself
    assert_recovered(story, undisturbed, fired=fired, spans=6)


def test_all_but_one_are_lost(stage: Stage, undisturbed: Story) -> None:
    faults = [f"KILL@{point}:t{k}:4" for k, point in enumerate(["exchange", "gather", "backward"])]
    story = stage.run(trainers=4, min_trainers=4, faults=faults)
    # the second owns up to the two sub-tasks that the first has left, the third all four of theirs: 2 + 4 + 6
    assert_recovered(story, undisturbed, fired=3, spans=12)


def test_a_replacement_joins_while_survivors_go_on(stage: Stage) -> None:
    config = {"steps": 300}
    undisturbed = stage.run(trainers=1, config=config)
    story = stage.run(trainers=2, min_trainers=2, faults=["KILL@backward:t1:5"], config=config)
    assert_recovered(story, undisturbed, fired=1, spans=4)
    joined = [event for event in story.of(EventKind.GENERATION) if "t2" in cast(list[str], event.data["joined"])]
    assert len(joined) == 1
    assert any(row.circumstances.trainers == 1 for row in story.rows), "survivors waited for the replacement"
    assert story.rows[-1].circumstances.trainers == 2


def test_resized_while_training(stage: Stage) -> None:
    config = {"steps": 600, "computed": None}
    undisturbed = stage.run(trainers=1, config=config)

    async def drive(uplink: MemoryUplink, cluster: Keep) -> None:
        await told(uplink, lambda: len(newest_members(uplink)) == 2)
        for n, trainers in enumerate([4, 1, 3], 1):
            uplink.command(Command(n=n, kind=CommandKind.RESIZE, trainers=trainers))
            await told(uplink, lambda wanted=trainers: len(newest_members(uplink)) == wanted)

    story = stage.run(trainers=2, min_trainers=1, config=config, drive=drive)
    assert_same(story, undisturbed)
    sizes = [len(cast(list[str], event.data["trainers"])) for event in story.of(EventKind.GENERATION)]
    passed = iter(sizes)
    assert all(size in passed for size in [2, 4, 1, 3]), f"not 2, 4, 1, 3 in this order: {sizes}"


def test_what_flows_to_the_supervisor_grows_with_seconds_not_with_steps(stage: Stage) -> None:
    config = {"steps": 800, "computed": None, "plain": True}
    story = stage.run(trainers=2, min_trainers=2, config=config)
    assert story.outcome.state is JobState.SUCCEEDED
    began, ended = story.rows[0].circumstances.at, story.rows[-1].circumstances.at
    # each trainer is asked at most once in COLLECT_S, and told a few things at the beginning and at the end
    bound = 2 * ((ended - began) / COLLECT_S + 20)
    # so many steps take few seconds, but on a machine where the bound says nothing of steps
    assert story.num_calls <= bound


def test_code_after_the_loop_runs_on_one_trainer(stage: Stage) -> None:
    after = stage.folder / "after"
    story = stage.run(trainers=3, min_trainers=3, config={"after": str(after)})
    assert story.outcome.state is JobState.SUCCEEDED
    assert len(after.read_text().splitlines()) == 1


def test_a_train_function_that_raises_fails_the_job_at_once(stage: Stage) -> None:
    story = stage.run(trainers=2, min_trainers=2, entrypoint="small:raises")
    assert story.outcome.state is JobState.FAILED
    failed = story.last(EventKind.FAILED)
    assert "the user's own mistake" in str(failed.data["traceback"])
    assert 'raise RuntimeError("the user\'s own mistake")' in str(failed.data["traceback"])


def newest_members(uplink: MemoryUplink) -> list[str]:
    generations = [event for event in uplink.events if event.kind is EventKind.GENERATION]
    members = generations[-1].data["trainers"] if generations else []
    assert isinstance(members, list)
    return [str(name) for name in members]


async def told(uplink: MemoryUplink, condition: Any, within_s: float = 60.0) -> None:
    """Wait until what was told makes the condition true."""
    async with asyncio.timeout(within_s):
        while not condition():
            await uplink.changed()
