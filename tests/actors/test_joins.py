"""Joins after joins: whoever joined earlier gives the next joiner the same state as whoever was there from the start."""

from __future__ import annotations

from typing import Any

from surefoot.events import Command, CommandKind, EventKind
from surefoot.spec import JobState
from surefoot_actors.uplink.memory import MemoryUplink

from .harness import Keep, Stage
from .test_matrix import newest_members, told


def test_one_tensor_in_two_places_outlives_joins_after_joins(stage: Stage) -> None:
    job: dict[str, Any] = {"entrypoint": "joined:tensor_rate", "batch_size": 16, "config": {"steps": 500}}
    alone = stage.run(trainers=1, **job)

    async def drive(uplink: MemoryUplink, cluster: Keep) -> None:
        await told(uplink, lambda: len(newest_members(uplink)) == 1)
        for n, trainers in enumerate([2, 3, 2, 3], 1):
            uplink.command(Command(n=n, kind=CommandKind.RESIZE, trainers=trainers))
            await told(uplink, lambda wanted=trainers: len(newest_members(uplink)) == wanted)

    story = stage.run(trainers=1, min_trainers=1, drive=drive, **job)
    assert story.outcome.state is JobState.SUCCEEDED, story.outcome
    assert sum(bool(event.data["joined"]) for event in story.of(EventKind.GENERATION)) >= 3
    assert story.ledger == alone.ledger
    assert story.digest == alone.digest
