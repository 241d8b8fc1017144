"""A job that makes no progress says so: when, purely; and where, on real processes."""

from __future__ import annotations

import asyncio
import itertools
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from surefoot.events import Event, EventKind
from surefoot.spec import JobState
from surefoot_actors.cluster.ports import Where
from surefoot_actors.protocol.membership.machine import MembershipState, Phase
from surefoot_actors.supervisor import stall_teller, stalls
from surefoot_actors.supervisor.stall_teller import StallTeller
from surefoot_actors.supervisor.stalls import THE_JOB, Awaited, GoesOn, Stalled, StallWatch, allowed_s, awaited
from surefoot_actors.uplink.memory import MemoryUplink

from .harness import Keep, Stage
from .test_failures import of
from .test_matrix import told


def something(token: int, allowed_s: float = 10.0) -> dict[str, Awaited]:
    return {"the job": Awaited(token=token, allowed_s=allowed_s, what="", trainers=())}


def test_it_is_told_ever_more_seldom_and_once_when_it_goes_on() -> None:
    watch, expected = StallWatch(), something(1)
    told = [(now, change) for now in range(200) for change in watch.look(now, expected)]
    assert [now for now, _ in told] == [10, 20, 40, 80, 160]
    assert all(isinstance(change, Stalled) and change.seconds == now for now, change in told)
    assert watch.look(200, something(2)) == [GoesOn(name="the job", seconds=200)]
    assert watch.look(209, something(2)) == []
    assert watch.look(209, something(3)) == [], "nothing was told, so there is nothing to take back"


def test_it_is_told_at_least_every_hour() -> None:
    watch = StallWatch()
    told = [now for now in range(0, 100_000, 10) if watch.look(now, something(1))]
    assert max(b - a for a, b in itertools.pairwise(told)) == 3600


def test_what_is_awaited_no_more_is_forgotten() -> None:
    watch = StallWatch()
    watch.look(0, something(1))
    assert watch.look(50, {}) == []
    assert watch.look(51, something(1)) == []


@pytest.mark.parametrize(
    ("seconds", "allowed"),
    [
        ([], stalls.START_S),
        ([0.001] * 50, 30.0),
        ([3.0] * 50, 60.0),
        # evaluation is part of a step
        ([1.0] * 49 + [100.0], 300.0),
    ],
)
def test_a_step_may_take_a_multiple_of_what_the_others_took(seconds: list[float], allowed: float) -> None:
    assert allowed_s(seconds) == allowed


def test_every_phase_but_forming_awaits_something() -> None:
    state = MembershipState(num_sub_tasks=4, target=2, min_trainers=1, starting=("t5", "t6"))
    for phase in Phase:
        expected = awaited(replace(state, phase=phase), None, (), ["t5"])
        assert ("the job" in expected) is (phase not in (Phase.FORMING, Phase.ENDED))
        assert "t5" in expected
        assert "t6" not in expected, "its process does not run yet: that is up to the cluster"


def stalled(uplink: MemoryUplink) -> list[Event]:
    return [e for e in of(uplink, EventKind.WARNING) if "no progress" in str(e.data["message"])]


PLACES = ["before", "data", "sub-task", "step", "after"]
# where `hang` waits
LINES = ("hanging.py:20", "hanging.py:21")


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, seconds in {"START_S": 0.6, "FEWEST_S": 0.6, "MEDIANS": 1.0, "LONGEST": 1.0}.items():
        monkeypatch.setattr(stalls, name, seconds)
    monkeypatch.setattr(stall_teller, "LOOK_EVERY_S", 0.1)


@pytest.mark.parametrize("place", PLACES)
def test_whatever_hangs_is_named_with_its_line(stage: Stage, impatient: None, tmp_path: Path, place: str) -> None:
    gate, said = tmp_path / "gate", []

    def named(uplink: MemoryUplink) -> list[dict[str, Any]]:
        places = [p for e in stalled(uplink) for p in e.data["trainers"]]  # type: ignore[union-attr]
        return [p for p in places if isinstance(p, dict) and p["line"] in LINES and not p["waits_for"]]

    async def open_the_gate(uplink: MemoryUplink, cluster: Keep) -> None:
        await told(uplink, lambda: named(uplink))
        said.extend(named(uplink))
        gate.touch()

    config = {"hangs": place, "mark": str(tmp_path / "mark"), "gate": str(gate)}
    story = stage.run(trainers=2, min_trainers=2, entrypoint="hanging:train", config=config, drive=open_the_gate)
    assert story.outcome.state is JobState.SUCCEEDED, story.outcome
    assert said[0]["step"] == {"before": -1, "data": 0, "sub-task": 3, "step": 3, "after": 6}[place]
    assert (said[0]["sub_task"] >= 0) is (place in ("data", "sub-task"))


def test_native_code_that_holds_the_interpreter_is_told_as_such(stage: Stage, impatient: None, tmp_path: Path) -> None:
    """It does not answer; its watchdog knows its sub-task all the same."""
    gate = tmp_path / "gate"

    def mute(uplink: MemoryUplink) -> bool:
        return any("does not answer" in str(e.data["message"]) for e in stalled(uplink))

    async def open_the_gate(uplink: MemoryUplink, cluster: Keep) -> None:
        await told(uplink, lambda: mute(uplink))
        gate.touch()

    config = {"hangs": "sub-task", "native": True, "mark": str(tmp_path / "mark"), "gate": str(gate)}
    story = stage.run(trainers=1, entrypoint="hanging:train", config=config, drive=open_the_gate)
    assert story.outcome.state is JobState.SUCCEEDED, story.outcome
    message = next(
        str(e.data["message"]) for e in story.of(EventKind.WARNING) if "not answer" in str(e.data["message"])
    )
    assert "in sub-task 0 of round 3" in message


def test_steps_that_are_made_again_are_no_stall() -> None:
    """After the loss of everybody no new row comes until the run is where it was; it goes on all the same, unless it does not."""
    told_: list[str] = []
    at = 584

    class Handle:
        async def where(self) -> Where:
            return Where(step=at)

    teller = StallTeller(
        cast(Any, None),
        cast(Any, {"t0": SimpleNamespace(handle=Handle())}),
        cast(Any, SimpleNamespace(newest=850)),
        cast(Any, SimpleNamespace(last=lambda trainer: None)),
        lambda kind, **data: told_.append(data["message"]),
        cast(Any, None),
    )
    what = Awaited(token=1, allowed_s=30.0, what="the step after step 850 has not ended", trainers=("t0",))
    stalled_ = Stalled(name=THE_JOB, seconds=30.0, awaited=what)
    for at, is_told in ((584, False), (600, False), (600, True), (40, False), (850, True), (851, True)):
        told_.clear()
        asyncio.run(teller._tell_stall(stalled_))
        assert bool(told_) is is_told, at
