"""Who joins shows that it computes what the others do: otherwise the job fails in that step, whatever it is that differs."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from surefoot.events import Command, CommandKind, EventKind
from surefoot.spec import JobState
from surefoot_actors.protocol.member.machine import At, MemberState
from surefoot_actors.protocol.messages import Generation, Member
from surefoot_actors.trainer.cross_checks import CrossChecks
from surefoot_actors.uplink.memory import MemoryUplink

from .harness import Keep, Stage, Story
from .test_matrix import assert_same, newest_members, told


def assert_told(story: Story) -> None:
    assert story.outcome.state is JobState.FAILED, story.outcome
    reason = story.outcome.reason
    assert re.search(rf"sub-task \d+ of step {len(story.rows)} was computed on two trainers", reason), reason
    assert "came out with other bits" in reason
    assert re.search(r"unlike\.py:\d+", reason), reason
    assert "run.track(mine=" in reason


def once_ready(number: int, gate: Path) -> Any:
    """Return what opens a gate once so many trainers have come to be ready."""

    async def drive(uplink: MemoryUplink, cluster: Keep) -> None:
        await told(uplink, lambda: len([e for e in uplink.events if e.kind is EventKind.TRAINER_READY]) >= number)
        gate.touch()  # noqa: ASYNC240  at once

    return drive


@pytest.mark.parametrize("trainers", [2, 3])
def test_what_differs_by_process_is_found_in_the_first_step(stage: Stage, trainers: int) -> None:
    config = {"steps": 3, "by": "process"}
    story = stage.run(entrypoint="unlike:train", trainers=trainers, min_trainers=trainers, config=config)
    assert_told(story)
    assert not story.rows


@pytest.mark.parametrize("at", [3, 4], ids=["ready in the round of the loss", "ready in the next one"])
def test_what_who_was_there_has_and_a_replacement_has_not(stage: Stage, tmp_path: Path, at: int) -> None:
    gate = tmp_path / "gate"
    config = {"steps": 200, "by": "environment", "gate": [at, str(gate)]}
    story = stage.run(
        entrypoint="unlike:train",
        trainers=2,
        min_trainers=2,
        faults=["KILL@forward:t1:3"],
        config=config,
        drive=once_ready(3, gate),
    )
    assert len(story.fired) == 1
    assert_told(story)


def test_what_they_have_and_who_is_added_has_not(stage: Stage, tmp_path: Path) -> None:
    gate = tmp_path / "gate"

    async def grow(uplink: MemoryUplink, cluster: Keep) -> None:
        await told(uplink, lambda: 1 in uplink.ledger)
        uplink.command(Command(n=1, kind=CommandKind.RESIZE, trainers=3))
        await once_ready(3, gate)(uplink, cluster)

    config = {"steps": 200, "by": "environment", "gate": [2, str(gate)]}
    assert_told(stage.run(entrypoint="unlike:train", trainers=1, config=config, drive=grow))


@pytest.mark.parametrize(("by", "step"), [("process late", 8), ("batches late", 8), ("process at last", 11)])
def test_what_comes_to_differ_later_is_found_in_one_of_the_next_steps(stage: Stage, by: str, step: int) -> None:
    """By a value that is each process's own from step 5 on, by what one batch leaves to the next, and by what begins after the eighth."""
    story = stage.run(entrypoint="unlike:train", trainers=2, min_trainers=2, config={"steps": 12, "by": by})
    assert_told(story)
    assert len(story.rows) == step


def test_what_may_differ_is_not_compared(stage: Stage, tmp_path: Path) -> None:
    """An operation that was allowed to be nondeterministic."""
    gate = tmp_path / "gate"
    story = stage.run(
        entrypoint="unlike:train",
        trainers=2,
        min_trainers=2,
        faults=["KILL@forward:t1:3"],
        config={"steps": 12, "by": "chance", "gate": [4, str(gate)]},
        drive=once_ready(3, gate),
    )
    assert story.outcome.state is JobState.SUCCEEDED, story.outcome


@pytest.mark.parametrize("lost", ["witness", "subject", "witness subject", "subject witness"])
def test_a_loss_in_the_midst_of_a_cross_check_is_a_loss_like_any_other(
    stage: Stage, undisturbed: Story, tmp_path: Path, lost: str
) -> None:
    """In step 0, and, where two are lost, of the replacement's in the step that it has joined in."""
    gate = tmp_path / "gate"
    story = stage.run(
        entrypoint="crossing:train",
        trainers=2,
        min_trainers=2,
        config={"lost": lost, "place": str(tmp_path), "gate": [1, str(gate)]},
        drive=once_ready(3, gate),
    )
    assert_same(story, undisturbed)
    assert {path.name for path in tmp_path.glob("*-lost")} == {f"{name}-lost" for name in lost.split()}
    assert len(story.of(EventKind.TRAINER_LOST)) == len(lost.split())
    assert story.computed_twice <= 4 * len(lost.split())


def test_a_sub_task_that_two_compute_when_their_node_is_lost_is_not_taken_for_what_kills(
    stage: Stage, undisturbed: Story, tmp_path: Path
) -> None:
    config = {"lost": "both", "place": str(tmp_path)}
    story = stage.run(entrypoint="crossing:train", trainers=2, min_trainers=2, config=config)
    assert_same(story, undisturbed)
    assert len(list(tmp_path.glob("*-lost"))) == 2
    assert len(story.of(EventKind.TRAINER_LOST)) == 2


def test_records_have_each_sub_task_once_when_several_join_at_once(stage: Stage, tmp_path: Path) -> None:
    gate = tmp_path / "gate"

    async def grow(uplink: MemoryUplink, cluster: Keep) -> None:
        await told(uplink, lambda: 1 in uplink.ledger)
        uplink.command(Command(n=1, kind=CommandKind.RESIZE, trainers=4))
        await once_ready(4, gate)(uplink, cluster)
        await told(uplink, lambda: len(newest_members(uplink)) == 4)
        gate_of_the_end.touch()

    gate_of_the_end, place = tmp_path / "gate-of-the-end", tmp_path / "counts"
    place.mkdir()
    gates = [[2, str(gate)], [20, str(gate_of_the_end)]]
    config = {"steps": 24, "place": str(place), "gates": gates}
    story = stage.run(entrypoint="counting:train", trainers=1, config=config, drive=grow)
    assert story.outcome.state is JobState.SUCCEEDED, story.outcome
    counts = [json.loads(file.read_text()) for file in place.iterdir()]
    assert len(counts) == 4
    assert [sum(kind) for kind in zip(*counts, strict=True)] == 5 * [24 * 8]


# ---- one trainer's part


def generation(number: int, start: int, *checked: bool) -> Generation:
    members = tuple(
        Member(trainer=f"t{k}", own=0b11 << 2 * k, role="settled", checked=c) for k, c in enumerate(checked)
    )
    return Generation(number=number, nonce="n", start=start, members=members, store=("host", 1))


def at_round(number: int) -> MemberState:
    return MemberState(trainer="t0", num_sub_tasks=4, at=At.ROUND, round=number)


def test_who_joined_a_generation_that_was_cut_short_is_checked_in_the_next_one() -> None:
    subject, witness = CrossChecks(4), CrossChecks(4)
    for number in (5, 6):
        witness.enter(generation(number, 3, True, subject.checked), 0)
        subject.enter(generation(number, 3, True, subject.checked), 1)
        if number == 5:
            for each in (witness, subject):
                each.open_round(3, None, checks=True)
            assert subject.compares(at_round(3), 2)
            # should this generation be short, its lowest sub-task may be another in the next one
            assert subject.compares(at_round(3), 3)
            assert not witness.compares(at_round(3), 0)
            subject.show(2, b"a" * 16)
        assert witness.due(at_round(3)) == 2
        assert subject.due(at_round(3)) is None
    witness.show(2, b"b" * 16)
    assert witness.due(at_round(3)) is None
    assert witness.shown(3) == (((1, 0, 2),), (bytes(16), b"b" * 16))
    assert subject.shown(3) == (((1, 0, 2),), (b"a" * 16, bytes(16)))
    for each in (witness, subject):
        each.committed(3)
        each.open_round(5, None, checks=True)
        assert each.of_round(4) == ()
    assert subject.checked
    assert not subject.compares(at_round(4), 2)


def test_an_evaluation_checks_nobody() -> None:
    checks = CrossChecks(4)
    checks.enter(generation(5, 3, True, False), 0)
    checks.open_round(3, None, checks=False)
    assert checks.due(at_round(3)) is None
    checks.committed(3)
    checks.open_round(3, None, checks=True)
    assert checks.due(at_round(4)) == 2


def test_a_round_before_the_generation_checks_nobody() -> None:
    """Of a member that was behind: the others have committed that round in the generation before."""
    checks = CrossChecks(4)
    checks.open_round(3, None, checks=True)
    checks.enter(generation(6, 4, True, False), 0)
    assert checks.due(at_round(3)) is None
    checks.committed(3)
    checks.open_round(3, None, checks=True)
    assert checks.due(at_round(4)) == 2


def test_in_some_steps_all_are_checked_whoever_was() -> None:
    """They need not agree on who was checked before: a report may have been made before the round of one, and after that of another."""
    members = [CrossChecks(4), CrossChecks(4)]
    for rank, each in enumerate(members):
        each.enter(generation(5, 3, True, rank == 0), rank)
        each.open_round(4, None, checks=True)
        assert each.of_round(3) == ((1, 0, 2),)
        assert each.compares(at_round(3), 2) == (rank == 1)
    assert members[0].due(at_round(3)) == 2
    # an evaluation checks nobody in such a step either
    members[0].open_round(4, None, checks=False)
    assert members[0].of_round(3) == ()
