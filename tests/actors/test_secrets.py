"""Secrets on their way to trainers: each that starts has the newest, no event tells one, and nobody waits for a control plane that told."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from surefoot.events import EventKind
from surefoot.spec import JobSpec, JobState
from surefoot_actors.masking import MASK
from surefoot_actors.supervisor import secrets
from surefoot_actors.supervisor.secrets import SecretKeeper
from surefoot_actors.uplink.memory import MemoryUplink
from surefoot_actors.uplink.ports import SecretsAwayError

from .harness import Stage, Story
from .test_matrix import assert_same
from .test_sealed import holds

OLD, NEW = "secret123-old", "secret456-new"
SPEC = JobSpec(entrypoint="train:train", package="0" * 64, batch_size=8, secrets={"KEY": "THE_KEY"})


class Rotated(MemoryUplink):
    """Tells another value each time, or nothing."""

    def __init__(self, *values: str | None) -> None:
        super().__init__()
        self.left = list(values)

    async def secrets(self) -> dict[str, str]:
        value = self.left.pop(0) if self.left else None
        if value is None:
            raise SecretsAwayError("away")
        return {"KEY": value}


@pytest.mark.process
@pytest.mark.slow
def test_what_starts_after_a_rotation_has_the_new_value(stage: Stage, undisturbed: Story, tmp_path: Path) -> None:
    """A trainer is lost, and its replacement starts: the result is the same, whatever the secret is."""
    seen = tmp_path / "seen"
    uplink = Rotated(OLD, OLD, NEW)
    story = stage.run(
        trainers=2, min_trainers=2, uplink=uplink, entrypoint="secretive:train", secrets={"KEY": "THE_KEY"},
        faults=["KILL@forward:t1:3"], config={"seen": str(seen)},
    )  # fmt: skip
    assert len(story.fired) == 1
    assert_same(story, undisturbed)
    assert sorted(seen.read_text().split())[:3] == sorted([OLD, OLD, NEW])


@pytest.mark.process
@pytest.mark.slow
def test_no_event_tells_what_user_code_raises_with(stage: Stage, tmp_path: Path) -> None:
    story = stage.run(
        uplink=Rotated(OLD), entrypoint="secretive:train", secrets={"KEY": "THE_KEY"},
        config={"seen": str(tmp_path / "seen"), "raises": True, "steps": 1},
    )  # fmt: skip
    assert story.outcome.state is JobState.FAILED
    failed = story.last(EventKind.FAILED).data
    assert str(failed["reason"]).endswith(f"401 for {MASK}")
    assert not [event for event in story.events if OLD in event.model_dump_json()]


class _Trainer:
    trainer = "t0"

    def __init__(self) -> None:
        self.given: list[str] = []

    async def deliver(self, message: object) -> None:
        assert OLD not in repr(message)
        self.given.append(message.values["KEY"])  # type: ignore[attr-defined]


async def test_while_the_control_plane_is_away_the_last_told_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(secrets, "_PATIENCE_S", 0.01)
    uplink, trainer = Rotated(None, None, OLD, None, None), _Trainer()
    keeper = SecretKeeper(SPEC, uplink, uplink.event)
    uplink.mask = keeper.mask
    await keeper.give(trainer)  # type: ignore[arg-type]
    await keeper.give(trainer)  # type: ignore[arg-type]
    assert trainer.given == [OLD, OLD]
    assert not holds(keeper, OLD)
    uplink.left = [NEW]
    await keeper.give(trainer)  # type: ignore[arg-type]
    assert trainer.given[-1] == NEW
    uplink.event(EventKind.WARNING, message=f"{OLD} {NEW}")
    assert uplink.events[-1].data["message"] == f"{MASK} {MASK}", "a value from before is a secret too"


async def test_that_nobody_tells_them_is_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(secrets, "wait_random_exponential", lambda **_: lambda state: 0.0)
    uplink = Rotated()
    keeper = SecretKeeper(SPEC, uplink, uplink.event)
    waiting = asyncio.create_task(keeper.give(_Trainer()))  # type: ignore[arg-type]
    async with asyncio.timeout(90):
        while not uplink.events:  # noqa: ASYNC110  a matter of milliseconds
            await asyncio.sleep(0)
    for _ in range(100):
        await asyncio.sleep(0)
    (warning,) = uplink.events
    assert "THE_KEY" in str(warning.data["message"])
    waiting.cancel()


def test_what_is_tracked_holds_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would be stored with every checkpoint. What the loop remembers beside is simply not stored."""
    import torch
    from torch import nn

    import surefoot
    from surefoot.errors import ContractError
    from surefoot_actors import disclosed

    monkeypatch.setattr(disclosed, "_raw", (OLD.encode(),))

    def train(run: surefoot.Run) -> None:
        model = nn.Linear(2, 1)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        run.track(model=model, optimizer=optimizer, mine={"key": OLD if run.config["tracks"] else ""})
        for step in run.steps(2):
            headers = {"key": OLD, "step": step.number}
            for x, _ in step.batches([(torch.ones(2), 0)] * 8):
                model(x).mean().backward()
            optimizer.step()
            assert headers

    for tracks in (False, True):
        run = lambda tracks=tracks: surefoot.run_local(  # noqa: E731
            train, batch_size=8, config={"tracks": tracks}, keep_state=True
        )
        if tracks:
            with pytest.raises(ContractError, match="tracked as 'mine'"):
                run()
        else:
            assert OLD.encode() not in run().state.skeleton
