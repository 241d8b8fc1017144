"""Losses one upon another, on real processes: what is borne, what is waited for, and what ends the job."""

from __future__ import annotations

import itertools
import os
import re
import signal
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from surefoot.events import Command, CommandKind, Event, EventKind, LedgerRow
from surefoot.spec import JobState
from surefoot_actors.protocol.membership import deadlines
from surefoot_actors.uplink.memory import MemoryUplink

from .harness import Keep, Stage, Story
from .test_matrix import assert_same, newest_members, told

STEPS = 14


class Absent(MemoryUplink):
    """The line to a control plane that stores no row of `step`, nor of those after it."""

    def __init__(self, step: int) -> None:
        super().__init__()
        self._step = step
        # steps that were told in vain
        self.refused: set[int] = set()

    def rows(self, rows: Iterable[LedgerRow]) -> None:
        told = list(rows)
        self.refused.update(row.result.step for row in told if row.result.step >= self._step)
        super().rows(row for row in told if row.result.step < self._step)


@pytest.fixture(scope="module")
def undisturbed(stage: Stage) -> Story:
    return stage.run(trainers=1, config={"steps": STEPS, "computed": None})


def of(uplink: MemoryUplink, kind: EventKind) -> list[Event]:
    return [event for event in uplink.events if event.kind is kind]


def kill(uplink: MemoryUplink, trainers: Iterable[str]) -> None:
    pids = {str(e.data["trainer"]): int(str(e.data["pid"])) for e in of(uplink, EventKind.TRAINER_READY)}
    for trainer in trainers:
        os.kill(pids[trainer], signal.SIGKILL)


# ---- everyone


@pytest.mark.parametrize("trainers", [1, 3])
def test_everyone_is_lost_and_there_is_no_checkpoint(
    stage: Stage, undisturbed: Story, tmp_path: Path, trainers: int
) -> None:
    """The run begins again; those that are lost together are one failure, however many."""
    gate, members = tmp_path / "gate", [f"t{n}" for n in range(trainers)]

    async def kill_all(uplink: MemoryUplink, cluster: Keep) -> None:
        await told(uplink, lambda: 5 in uplink.ledger)
        kill(uplink, members)
        gate.touch()

    story = stage.run(
        trainers=trainers,
        min_trainers=trainers,
        max_failures=1,
        drive=kill_all,
        checkpoint={"every_s": None, "final": False},
        # nobody can pass step 6 before all are killed
        config={"steps": STEPS, "gate": [6, str(gate)]},
    )
    assert_same(story, undisturbed)
    lost = story.of(EventKind.TRAINER_LOST)
    assert sorted(str(event.data["trainer"]) for event in lost) == members
    assert all("SIGKILL" in str(event.data["reason"]) for event in lost), lost
    assert not story.of(EventKind.RESTORED)
    assert story.last(EventKind.GENERATION).data["step"] == 0
    assert all(len(pids) == 2 for (step, _), pids in story.computed.items() if step < 6), "it did not begin again"


def test_rows_that_nobody_has_stored_are_in_the_checkpoint(stage: Stage, undisturbed: Story, tmp_path: Path) -> None:
    """The control plane is away, everyone is lost, the attempt ends: the next one tells every row that is missing."""
    gate, uplink = tmp_path / "gate", Absent(5)
    same: dict[str, Any] = {
        "checkpoints": tmp_path / "job",
        "checkpoint": {"every_steps": 10, "every_s": None},
        "config": {"steps": STEPS, "computed": None, "gate": [12, str(gate)]},
    }

    async def end(uplink: MemoryUplink, cluster: Keep) -> None:
        assert isinstance(uplink, Absent)
        await told(uplink, lambda: of(uplink, EventKind.CHECKPOINT))
        await told(uplink, lambda: 9 in uplink.refused)
        kill(uplink, ["t0", "t1", "t2"])
        uplink.command(Command(n=1, kind=CommandKind.CANCEL))

    first = stage.run(trainers=3, min_trainers=3, uplink=uplink, drive=end, **same)
    assert first.outcome.state is JobState.CANCELLED, first.outcome
    assert first.ledger == undisturbed.ledger[:5]
    gate.touch()
    second = stage.run(trainers=2, min_trainers=2, stored_below=5, **same)
    assert second.outcome.state is JobState.SUCCEEDED, second.outcome
    assert second.last(EventKind.RESTORED).data["step"] == 10
    assert second.ledger == undisturbed.ledger[5:]
    assert second.digest == undisturbed.digest


# ---- one after the other


def test_who_only_ever_dies_is_replaced_later_and_later_and_then_no_more(stage: Stage, tmp_path: Path) -> None:
    async def open_gates(uplink: MemoryUplink, cluster: Keep) -> None:
        for life in itertools.count(1):
            await told(uplink, lambda life=life: len(of(uplink, EventKind.TRAINER_STARTED)) == life)
            (tmp_path / f"gate-{life}").touch()

    story = stage.run(entrypoint="deadly:train", max_failures=3, drive=open_gates, config={"lives": str(tmp_path)})
    assert story.outcome.state is JobState.FAILED
    assert "4 times in a row" in story.outcome.reason, story.outcome
    assert "max_failures is 3" in story.outcome.reason
    assert "SIGKILL" in story.outcome.reason
    started, lost = story.of(EventKind.TRAINER_STARTED), story.of(EventKind.TRAINER_LOST)
    assert [event.data["trainer"] for event in started] == ["t0", "t1", "t2", "t3"]
    assert [event.data["trainer"] for event in lost] == ["t0", "t1", "t2", "t3"]
    waited = [(new.at - old.at).total_seconds() for old, new in zip(lost, started[1:], strict=False)]
    # the first comes at once; 0.5 s and 1 s are what the others wait at least
    assert waited[1] > 0.4
    assert waited[2] > 0.9


@pytest.mark.parametrize("trainers", [1, 2])
def test_losses_with_steps_in_between_never_fail_a_job(
    stage: Stage, undisturbed: Story, tmp_path: Path, trainers: int
) -> None:
    gates = {step: tmp_path / f"gate-{step}" for step in (3, 6, 9, 12)}

    async def kill_one_at_each(uplink: MemoryUplink, cluster: Keep) -> None:
        for n, (step, gate) in enumerate(gates.items(), 1):
            await told(uplink, lambda step=step: step - 1 in uplink.ledger)
            kill(uplink, newest_members(uplink)[:1])
            await told(uplink, lambda n=n: len(of(uplink, EventKind.TRAINER_READY)) == trainers + n)
            gate.touch()

    story = stage.run(
        trainers=trainers,
        min_trainers=trainers,
        max_failures=1,
        drive=kill_one_at_each,
        config={"steps": STEPS, "computed": None, "gates": [[step, str(gate)] for step, gate in gates.items()]},
    )
    assert_same(story, undisturbed)
    assert len(story.of(EventKind.TRAINER_LOST)) == len(gates)


# ---- what would happen again


@pytest.mark.parametrize("entrypoint", ["small:raises", "deadly:stumbles"])
def test_what_the_users_code_raises_ends_the_job_and_starts_nobody(stage: Stage, entrypoint: str) -> None:
    story = stage.run(trainers=2, min_trainers=2, entrypoint=entrypoint)
    assert story.outcome.state is JobState.FAILED
    assert story.outcome.reason == "RuntimeError: the user's own mistake"
    [failed] = story.of(EventKind.FAILED)
    assert 'raise RuntimeError("the user\'s own mistake")' in str(failed.data["traceback"])
    assert {event.data["trainer"] for event in story.of(EventKind.TRAINER_STARTED)} <= {"t0", "t1"}
    # the first that raised was a lost trainer, for as long as nobody else had raised the same
    assert len(story.of(EventKind.TRAINER_LOST)) <= 1
    assert [event.kind for event in story.events[story.events.index(failed) :]] == [EventKind.FAILED, EventKind.STATE]


@pytest.mark.parametrize("trainers", [1, 3])
def test_a_poisonous_sub_task_kills_two_trainers_and_no_third(stage: Stage, trainers: int) -> None:
    story = stage.run(trainers=trainers, min_trainers=trainers, entrypoint="small:poisoned")
    assert story.outcome.state is JobState.FAILED
    lost = [str(event.data["trainer"]) for event in story.of(EventKind.TRAINER_LOST)]
    assert len(set(lost)) == len(lost) == 2
    reason = story.outcome.reason
    # of one trainer that is lost, and what replaces it, nobody may have told the step that the round is of
    assert re.search("sub-task 5 of (step|round) 3 killed two trainers", reason), reason
    assert all(f"{trainer} (" in reason for trainer in lost), (lost, reason)


@pytest.mark.parametrize("trainers", [1, 2])
@pytest.mark.parametrize("saved", [True, False], ids=["saved", "not saved"])
def test_the_last_that_hold_the_state_are_frozen(
    stage: Stage, undisturbed: Story, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trainers: int, saved: bool
) -> None:
    """They are waited for, since fencing them loses the state (R9), but not for ever: nothing else would ever end a stopped process."""
    monkeypatch.setattr(deadlines, "PATIENCE_S" if saved else "PATIENCE_WITHOUT_CHECKPOINT_S", 0.5)
    durable: dict[str, Any] = (
        {"checkpoints": tmp_path, "checkpoint": {"every_steps": 1, "every_s": None}, "in_turn": True} if saved else {}
    )
    story = stage.run(
        trainers=trainers,
        min_trainers=trainers,
        faults=[f"STOP@forward:t{k}:6" for k in range(trainers)],
        config={"steps": STEPS, "computed": None},
        **durable,
    )
    assert len(story.fired) == trainers
    assert_same(story, undisturbed)
    reasons = [str(event.data["reason"]) for event in story.of(EventKind.TRAINER_LOST)]
    assert [reason.partition(",")[0] for reason in reasons] == ["it was not seen running for too long"] * trainers
    assert bool(story.of(EventKind.RESTORED)) is saved
