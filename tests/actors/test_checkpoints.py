"""Whole attempts with durable checkpoints: what is lost comes back, and the ledger is the undisturbed run's, across attempts."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from surefoot.events import Command, CommandKind, EventKind
from surefoot.spec import JobState
from surefoot_actors.protocol.messages import Snapshot
from surefoot_actors.uplink.memory import MemoryUplink

from .harness import Keep, Stage, Story
from .test_matrix import assert_same, newest_members, told

STEPS = 60


@pytest.fixture(scope="module")
def undisturbed(stage: Stage) -> Story:
    return stage.run(trainers=1, config={"steps": STEPS, "computed": None})


def test_every_trainer_at_once(stage: Stage, undisturbed: Story, tmp_path: Path) -> None:
    """Nobody with state is left: the run goes on from the newest checkpoint, and not from the beginning."""
    gate = tmp_path / "gate"

    async def kill_all(uplink: MemoryUplink, cluster: Keep) -> None:
        await told(uplink, lambda: any(e.kind is EventKind.CHECKPOINT and e.data["step"] == 40 for e in uplink.events))
        pids = [int(str(e.data["pid"])) for e in uplink.events if e.kind is EventKind.TRAINER_READY]
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        gate.touch()

    story = stage.run(
        trainers=3,
        min_trainers=3,
        drive=kill_all,
        checkpoints=tmp_path / "job",
        checkpoint={"every_steps": 10, "every_s": None},
        in_turn=True,
        # nobody can pass step 45 before all are killed
        config={"steps": STEPS, "gate": [45, str(gate)]},
    )
    assert_same(story, undisturbed)
    restored = story.last(EventKind.RESTORED)
    assert restored.data["step"] == 40
    assert len(story.of(EventKind.TRAINER_LOST)) == 3
    assert all(len(pids) == 1 for (step, _), pids in story.computed.items() if step < 40), "it began from the beginning"


def test_paused_and_resumed_with_other_trainers(stage: Stage, undisturbed: Story, tmp_path: Path) -> None:
    """Two attempts, the second with another number of trainers: one ledger."""
    place, gate = tmp_path / "job", tmp_path / "gate"
    # nobody can pass step 6 before the pause is under way
    config = {"steps": STEPS, "computed": None, "gate": [6, str(gate)]}

    async def pause(uplink: MemoryUplink, cluster: Keep) -> None:
        await told(uplink, lambda: 5 in uplink.ledger)
        uplink.command(Command(n=1, kind=CommandKind.PAUSE))
        await told(uplink, lambda: any(e.data.get("state") == JobState.PAUSING for e in uplink.events))
        gate.touch()

    first = stage.run(trainers=3, min_trainers=3, drive=pause, checkpoints=place, config=config)
    assert first.outcome.state is JobState.PAUSED, first.outcome
    saved = first.last(EventKind.CHECKPOINT).data
    assert saved["reason"] == "paused"
    assert saved["step"] == len(first.rows) < STEPS
    stored = len(first.rows)
    second = stage.run(trainers=2, min_trainers=2, checkpoints=place, stored_below=stored, config=config)
    assert second.last(EventKind.RESTORED).data["step"] == saved["step"]
    assert [r.result.canonical() for r in (*first.rows, *second.rows)] == undisturbed.ledger
    assert second.digest == undisturbed.digest


def test_a_trainer_is_lost_while_the_job_is_being_paused(stage: Stage, undisturbed: Story, tmp_path: Path) -> None:
    place, gate = tmp_path / "job", tmp_path / "gate"
    # nobody can pass step 6, and so pause, before one of them is lost
    config = {"steps": STEPS, "computed": None, "gate": [6, str(gate)]}

    async def pause(uplink: MemoryUplink, cluster: Keep) -> None:
        await told(uplink, lambda: 5 in uplink.ledger)
        uplink.command(Command(n=1, kind=CommandKind.PAUSE))
        await told(uplink, lambda: any(e.data.get("state") == JobState.PAUSING for e in uplink.events))
        pid = next(int(str(e.data["pid"])) for e in uplink.events if e.kind is EventKind.TRAINER_READY)
        os.kill(pid, signal.SIGKILL)
        await told(uplink, lambda: any(e.kind is EventKind.TRAINER_LOST for e in uplink.events))
        gate.touch()

    first = stage.run(trainers=3, min_trainers=3, drive=pause, checkpoints=place, config=config)
    assert first.outcome.state is JobState.PAUSED, first.outcome
    assert len(first.of(EventKind.TRAINER_LOST)) == 1
    second = stage.run(trainers=1, checkpoints=place, stored_below=len(first.rows), config=config)
    rows = {r.result.step: r for r in (*first.rows, *second.rows)}
    assert [rows[step].result.canonical() for step in range(STEPS)] == undisturbed.ledger


class Snapshots:
    """How often a trainer was told to have all members save at the next boundary."""

    def __init__(self, cluster: Keep) -> None:
        self._num, self._changed, self._start = 0, asyncio.Condition(), cluster.start_trainer
        cluster.start_trainer = self._started  # type: ignore[method-assign]

    async def _started(self, setup: Any) -> Any:
        handle = await self._start(setup)
        deliver = handle.deliver

        async def delivered(message: Any) -> None:
            await deliver(message)
            if isinstance(message, Snapshot):
                async with self._changed:
                    self._num += 1
                    self._changed.notify_all()

        handle.deliver = delivered
        return handle

    async def reach(self, num: int) -> int:
        """Wait until there were so many; return how many there are."""
        async with asyncio.timeout(60.0), self._changed:
            await self._changed.wait_for(lambda: self._num >= num)
            return self._num


def test_asked_for_and_by_time(stage: Stage, undisturbed: Story, tmp_path: Path) -> None:
    """Members save at one and the same step, which nobody could know beforehand."""
    place, gates = tmp_path / "job", {step: tmp_path / f"gate-{step}" for step in (0, 30)}

    async def ask(uplink: MemoryUplink, cluster: Keep) -> None:
        snapshots = Snapshots(cluster)
        await told(uplink, lambda: newest_members(uplink))
        uplink.command(Command(n=1, kind=CommandKind.CHECKPOINT))
        num = await snapshots.reach(1)
        gates[0].touch()
        await told(uplink, lambda: any(e.data.get("reason") == "asked for" for e in uplink.events))
        await snapshots.reach(num + 1)
        gates[30].touch()

    config = {"steps": STEPS, "computed": None, "gates": [[step, str(path)] for step, path in gates.items()]}
    policy = {"every_s": 1.0, "keep": 1000}
    story = stage.run(trainers=3, min_trainers=3, drive=ask, checkpoints=place, checkpoint=policy, config=config)
    assert_same(story, undisturbed)
    made = [event.data for event in story.of(EventKind.CHECKPOINT)]
    assert [data["reason"] for data in made if data["step"] == 1] == ["asked for"], made
    assert any(data["reason"] == "every 1 s" for data in made), made
    assert made[-1]["reason"] == "the end of training"
    assert not story.of(EventKind.CHECKPOINT_FAILED)


def test_the_final_model_is_the_models_bits(stage: Stage, tmp_path: Path) -> None:
    story = stage.run(trainers=2, min_trainers=2, checkpoints=tmp_path / "job")
    alone = stage.run(trainers=1, checkpoints=tmp_path / "alone")
    folders = [Path(str(s.last(EventKind.CHECKPOINT).data["model"])) for s in (story, alone)]
    one, two = (safetensors.torch.load_file(folder / "model.safetensors") for folder in folders)
    normalized = ["1.bias", "1.num_batches_tracked", "1.running_mean", "1.running_var", "1.weight"]
    assert sorted(one) == ["0.bias", "0.weight", *normalized, "4.bias", "4.weight"]
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_a_damaged_checkpoint_is_skipped_and_named(stage: Stage, undisturbed: Story, tmp_path: Path) -> None:
    config = {"steps": STEPS, "computed": None}
    policy = {"every_steps": 10, "every_s": None, "final": False, "keep": 10}
    stage.run(trainers=2, min_trainers=2, checkpoints=tmp_path, checkpoint=policy, config=config, in_turn=True)
    *_, before, newest = sorted(manifest.parent for manifest in tmp_path.glob("step-*/manifest.json"))
    start = int(before.name.removeprefix("step-"))
    victim = max(newest.glob("*.safetensors"), key=lambda file: file.stat().st_size)
    data = bytearray(victim.read_bytes())
    data[-1] ^= 1
    victim.write_bytes(data)
    story = stage.run(
        trainers=2, min_trainers=2, checkpoints=tmp_path, stored_below=start, checkpoint=policy, config=config
    )
    skipped = story.last(EventKind.CHECKPOINT_SKIPPED).data
    assert victim.name in str(skipped["reason"])
    assert story.last(EventKind.RESTORED).data["step"] == start
    assert [r.result.canonical() for r in story.rows if r.result.step >= start] == undisturbed.ledger[start:]


def test_another_seed_is_refused(stage: Stage, tmp_path: Path) -> None:
    policy = {"every_s": None}
    stage.run(trainers=1, checkpoints=tmp_path / "a", checkpoint=policy)
    story = stage.run(trainers=1, checkpoints=tmp_path / "b", checkpoint=policy, seed=8, restore=str(tmp_path / "a"))
    assert story.outcome.state is JobState.FAILED
    assert "was made with seed 7, this job has seed 8: it would not go on with the same bits" in story.outcome.reason


def test_a_sub_task_that_kills_whoever_computes_it_is_named(stage: Stage) -> None:
    story = stage.run(trainers=3, min_trainers=2, entrypoint="small:poisoned")
    assert story.outcome.state is JobState.FAILED
    assert "sub-task 5 of step 3" in story.outcome.reason, story.outcome
    assert "killed two trainers" in story.outcome.reason


def test_a_spare_joins_at_once(stage: Stage) -> None:
    """The spare has started, imported and built before the loss: what is left is to copy the state."""
    config = {"steps": 300, "computed": None}
    undisturbed = stage.run(trainers=1, config=config)
    killed: list[int] = []

    async def kill(uplink: MemoryUplink, cluster: Keep) -> None:
        await told(uplink, lambda: len([e for e in uplink.events if e.kind is EventKind.TRAINER_READY]) == 3)
        await told(uplink, lambda: 5 in uplink.ledger)
        member = newest_members(uplink)[0]
        pid = next(
            int(str(e.data["pid"]))
            for e in uplink.events
            if e.kind is EventKind.TRAINER_READY and e.data["trainer"] == member
        )
        os.kill(pid, signal.SIGKILL)
        killed.append(pid)

    story = stage.run(trainers=2, min_trainers=2, spares=1, drive=kill, config=config)
    assert killed
    assert_same(story, undisturbed)
    generations = story.of(EventKind.GENERATION)
    joined = next(event for event in generations[1:] if event.data["joined"])
    # whoever of the three was not among the first two
    [spare] = {"t0", "t1", "t2"}.difference(map(str, generations[0].data["trainers"]))  # type: ignore[arg-type]
    assert joined.data["joined"] == [spare], "somebody joined who was not ready before the loss"


def test_notice_is_given(stage: Stage, undisturbed: Story, tmp_path: Path) -> None:
    """SIGTERM: the trainer leaves at a step boundary, and nothing is computed twice."""
    gate = tmp_path / "gate"

    async def notice(uplink: MemoryUplink, cluster: Keep) -> None:
        await told(uplink, lambda: 3 in uplink.ledger)
        pid = next(int(str(e.data["pid"])) for e in uplink.events if e.kind is EventKind.TRAINER_READY)
        os.kill(pid, signal.SIGTERM)
        await told(uplink, lambda: any("was given notice" in str(e.data.get("message")) for e in uplink.events))
        gate.touch()

    config = {"steps": STEPS, "gate": [5, str(gate)]}
    story = stage.run(trainers=3, min_trainers=2, drive=notice, config=config)
    assert_same(story, undisturbed)
    assert story.computed_twice == 0
    assert len(story.of(EventKind.TRAINER_LEFT)) == 1
    assert not story.of(EventKind.TRAINER_LOST)
