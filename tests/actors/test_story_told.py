"""A fault of Surefoot's own, made on purpose: what its machine was fed last is in the process's log and in what is told to people."""

from __future__ import annotations

import os
from typing import Any

import pytest
import torch

from surefoot.errors import CheckpointError
from surefoot.events import EventKind
from surefoot.spec import JobSpec, JobState
from surefoot_actors.journal.memory import MemoryJournal
from surefoot_actors.launch.supervisor_actor import SupervisorActor, SupervisorSetup
from surefoot_actors.protocol.membership import machine
from surefoot_actors.story import NUM_KEPT, BrokenMachineError
from surefoot_actors.supervisor import supervisor
from surefoot_actors.trainer.raised import lose_if_device
from surefoot_actors.uplink.memory import MemoryUplink

from .harness import Stage


def test_an_assertion_that_fails_in_a_trainer_tells_its_story(stage: Stage) -> None:
    told = stage.run(trainers=1, entrypoint="raising:breaks_surefoot", config={"steps": 12})
    assert told.outcome.state is JobState.FAILED
    assert "a fault of Surefoot: trainer t0: AssertionError('broken on purpose" in told.outcome.reason
    story = told.last(EventKind.FAILED).data["story"]
    assert isinstance(story, list)
    # the machine is fed a leaf a sub-task, and a few events a round besides
    assert 20 < len(story) <= NUM_KEPT
    assert "LeafMade" in str(story[-1])
    assert any("->" in str(line) for line in story)
    logs = "".join(log.read_text(errors="replace") for log in stage.folder.glob("*.log"))
    assert all(str(line) in logs for line in story)


def test_an_assertion_that_fails_in_the_supervisor_tells_its_story(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    sound = machine.apply

    def broken(state: Any, event: Any) -> Any:
        assert not isinstance(event, machine.Started), "broken on purpose"
        return sound(state, event)

    monkeypatch.setattr(machine, "apply", broken)
    with pytest.raises(BrokenMachineError, match="a fault of Surefoot: supervisor: AssertionError") as found:
        stage.run(trainers=1)
    story = found.value.story
    assert "Started" in story[-1]
    log = capfd.readouterr().err
    assert all(line in log for line in story)


class _Closed:
    """A cluster that has nothing to close."""

    async def close(self) -> None:
        pass


@pytest.mark.parametrize(
    ("error", "reason", "story"),
    [
        (
            BrokenMachineError("supervisor: it broke", ("a", "b")),
            "a fault of Surefoot: supervisor: it broke",
            ["a", "b"],
        ),
        (CheckpointError("the place is not there"), "the place is not there", None),
        (KeyError("x"), "Surefoot's supervisor failed, which is a fault of Surefoot: KeyError('x')", None),
    ],
)
async def test_what_ends_a_supervisor_is_told(
    error: Exception, reason: str, story: list[str] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Failing:
        def __init__(self, *_: Any, **__: Any) -> None: ...

        async def run(self) -> None:
            raise error

    monkeypatch.setattr(supervisor, "Supervisor", Failing)
    actor = object.__new__(SupervisorActor)
    actor._setup = SupervisorSetup(
        url="",
        attempt="a-1",
        token="",
        spec=JobSpec(entrypoint="small:train", package="0" * 64, batch_size=32),
        package_uri=None,
    )
    uplink, journal = MemoryUplink(), MemoryJournal()
    await actor._supervise(uplink, None, journal, _Closed())  # type: ignore[arg-type]
    (event,) = [e for e in uplink.events if e.kind is EventKind.FAILED]
    assert event.data["reason"] == reason
    assert event.data.get("story") == story
    assert journal.finished() == JobState.FAILED


@pytest.mark.parametrize("wrapped", [False, True], ids=["as it is", "raised while the machine was fed"])
def test_a_device_that_fails_is_the_trainers_loss_wherever_it_does(
    wrapped: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended: list[int] = []
    monkeypatch.setattr(os, "_exit", ended.append)
    error: BaseException = torch.AcceleratorError("CUDA error: an illegal memory access was encountered")
    if wrapped:
        broken = BrokenMachineError("trainer t0: it failed")
        broken.__cause__ = error
        error = broken
    lose_if_device(error)
    assert ended == [1]


def test_a_fault_of_surefoots_is_no_loss_of_a_device(monkeypatch: pytest.MonkeyPatch) -> None:
    ended: list[int] = []
    monkeypatch.setattr(os, "_exit", ended.append)
    broken = BrokenMachineError("trainer t0: it failed")
    broken.__cause__ = AssertionError("it failed")
    lose_if_device(broken)
    assert ended == []
