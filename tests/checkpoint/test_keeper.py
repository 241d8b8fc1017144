"""The supervisor's gathering of shares, by hand-made messages; the storage is played."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any

import pytest

from surefoot.errors import DamagedError
from surefoot.events import EventKind
from surefoot.spec import JobSpec
from surefoot_actors.checkpoint.catalogue import Made
from surefoot_actors.protocol.membership.machine import MembershipState
from surefoot_actors.protocol.messages import Saved
from surefoot_actors.supervisor import checkpoints as module
from surefoot_actors.supervisor.checkpoints import MOST_OPEN, CheckpointCoordinator


class Played:
    """A catalogue without storage."""

    there = True

    def __init__(self) -> None:
        self.committed: list[int] = []
        self.retained: list[str] = []
        self.reasons: list[str] = []

    def find(self) -> tuple[str, ...]:
        raise DamagedError("there is no checkpoint where the job is to begin")

    def commit(self, shares: Sequence[Saved], reason: str) -> Made:
        self.committed.append(shares[0].step)
        self.reasons.append(reason)
        return Made(url=f"/c/{shares[0].step}", step=shares[0].step, bytes=1, taken_at=0.0, model="")

    def retain(self, committed: str) -> None:
        self.retained.append(committed)


def made(monkeypatch: pytest.MonkeyPatch) -> tuple[CheckpointCoordinator, Played, list[EventKind]]:
    played, told = Played(), []
    monkeypatch.setattr(module, "Catalogue", lambda *_: played)

    def tell(kind: EventKind, /, **_: Any) -> None:
        told.append(kind)

    spec = JobSpec(entrypoint="a:b", package="0" * 64, batch_size=8)
    keeper = CheckpointCoordinator(spec, "/c", tell, lambda *_: None, lambda _: None, lambda: True)
    keeper.attend(MembershipState(num_sub_tasks=8, target=2, min_trainers=2))
    return keeper, played, told


def share(step: int, of_two: int, generation: int = 1, taken_at: float = 0.0) -> Saved:
    return Saved(
        trainer=f"t{of_two}",
        generation=generation,
        round=step,
        step=step,
        share=of_two,
        of=2,
        entry="{}",
        taken_at=taken_at,
    )


async def settled(keeper: CheckpointCoordinator) -> None:
    async with asyncio.timeout(180):
        await keeper._tasks.settle()
        await keeper._removing.settle()


async def test_a_slow_member_completes_the_oldest_of_many(monkeypatch: pytest.MonkeyPatch) -> None:
    """The other has gone on saving meanwhile: what was begun first is made, and no share is held against the rest."""
    keeper, played, told = made(monkeypatch)
    keeper._searched.set()
    for step in range(MOST_OPEN):
        keeper.saved(share(step, 0))
    keeper.saved(share(0, 1))
    await settled(keeper)
    assert played.committed == [0]
    assert played.retained == ["/c/0"]
    assert told == [EventKind.CHECKPOINT]
    await keeper.close()


async def test_shares_of_two_generations_make_no_checkpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    keeper, played, _ = made(monkeypatch)
    keeper.saved(share(3, 0, generation=1))
    keeper.saved(share(3, 1, generation=2))
    await settled(keeper)
    assert played.committed == []
    keeper.saved(share(3, 0, generation=2))
    keeper._searched.set()
    await settled(keeper)
    assert played.committed == [3]
    await keeper.close()


async def test_what_is_kept_is_decided_also_where_there_was_nothing_to_begin_with(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    keeper, played, _ = made(monkeypatch)
    with pytest.raises(DamagedError):
        await keeper.find()
    for of_two in (0, 1):
        keeper.saved(share(5, of_two))
    await settled(keeper)
    assert played.retained == ["/c/5"]
    await keeper.close()


async def test_a_snapshot_that_was_under_way_answers_no_request(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who asks and then stops a machine would lose the steps in between."""
    keeper, played, _ = made(monkeypatch)
    keeper._searched.set()
    before = time.time() - 1.0
    keeper.want("asked for")
    for of_two in (0, 1):
        keeper.saved(share(5, of_two, taken_at=before))
    await settled(keeper)
    later = time.time()
    for step in (6, 7):
        for of_two in (0, 1):
            keeper.saved(share(step, of_two, taken_at=later))
        await settled(keeper)
    assert played.committed == [5, 6, 7]
    assert played.reasons == ["under way already", "asked for", "under way already"]
    await keeper.close()


async def test_a_share_that_comes_after_a_change_of_generation_completes_its_snapshot(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    keeper, played, _ = made(monkeypatch)
    keeper._searched.set()
    keeper.saved(share(5, 0, generation=1))
    keeper.saved(share(7, 0, generation=2))
    keeper.saved(share(5, 1, generation=1))
    await settled(keeper)
    assert played.committed == [5]
    await keeper.close()
