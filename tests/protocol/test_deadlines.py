"""Which timers run, and what becomes of a run when one fires. That each may fire at any moment is in test_exhaustive.py."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from surefoot.events import EventKind
from surefoot.spec import JobState
from surefoot_actors.protocol.membership import deadlines
from surefoot_actors.protocol.membership.machine import (
    Cancelled,
    CancelTimer,
    Command,
    Committed,
    Emit,
    Finish,
    Kill,
    Lost,
    MembershipState,
    MessageReceived,
    Phase,
    Reserve,
    Resized,
    RestoreSourceMissing,
    SetTimer,
    StartTrainer,
    Suspected,
    SuspicionCleared,
    Timer,
    TimerFired,
    apply,
    begin,
)
from surefoot_actors.protocol.messages import Parked

from .test_membership import after, collecting, founded, hello, report, restoring


def timers(state: MembershipState, event: Any) -> tuple[MembershipState, tuple[Command, ...]]:
    """Apply an event. Return what it commands of timers."""
    state, commands = apply(state, event)
    return state, tuple(c for c in commands if isinstance(c, SetTimer | CancelTimer))


def silent(target: int = 2) -> MembershipState:
    """Nobody of the generation answers, and nobody has reported."""
    state, _ = after(collecting(target), *(Suspected(f"t{k}", "silent") for k in range(target)))
    assert state.timers >= {Timer.PATIENCE}
    return state


# ---- the first generation


def test_who_is_enough_waits_for_the_rest_and_then_begins_without() -> None:
    state, _ = begin(MembershipState(num_sub_tasks=4, target=3, min_trainers=2))
    state, set_ = timers(state, hello("t0"))
    assert set_ == ()
    state, set_ = timers(state, hello("t1"))
    assert set_ == (SetTimer(Timer.START_GRACE, deadlines.START_GRACE_S),)
    state, commands = apply(state, TimerFired(Timer.START_GRACE))
    assert commands == (Reserve(),)
    assert (state.phase, state.timers) == (Phase.RESERVING, frozenset())


def test_the_rest_is_waited_for_once_an_attempt() -> None:
    state, _ = begin(MembershipState(num_sub_tasks=4, target=2, min_trainers=1))
    state, set_ = timers(state, hello("t0"))
    assert set_ == (SetTimer(Timer.START_GRACE, deadlines.START_GRACE_S),)
    state, _ = after(state, hello("t1"))
    state, set_ = timers(state, TimerFired(Timer.START_GRACE))
    assert set_ == ()
    state, _ = after(state, Lost("t0", "killed"), Lost("t1", "killed"), hello("t2"))
    assert state.members == ("t2",)
    assert not state.timers


# ---- nobody who holds the state is heard


def test_the_silent_are_given_up_when_patience_is_over() -> None:
    state, commands = after(silent(1), TimerFired(Timer.PATIENCE))
    reason = "it was not seen running for too long, and nobody else holds the state"
    assert commands == (Kill("t0", reason), StartTrainer("t1"))
    assert (state.phase, state.generation) == (Phase.FORMING, None)


def test_all_that_are_silent_are_told_lost() -> None:
    state, commands = apply(silent(2), TimerFired(Timer.PATIENCE))
    assert [c.trainer for c in commands if isinstance(c, Kill)] == ["t0", "t1"]
    lost = [c.data["trainer"] for c in commands if isinstance(c, Emit) and c.kind is EventKind.TRAINER_LOST]
    assert lost == ["t0", "t1"]
    assert (state.phase, state.generation) == (Phase.FORMING, None)


def test_all_that_reported_and_stopped_are_ended_before_a_number_is_reserved_without_them() -> None:
    state, _ = after(collecting(3), *(report(t, collecting(3)) for t in ("t0", "t1")))
    state, _ = after(state, Suspected("t0", "silent"), Suspected("t1", "silent"), Lost("t2", "killed"))
    assert (state.phase, state.members) == (Phase.RUNNING, ("t0", "t1"))
    _, commands = apply(state, TimerFired(Timer.PATIENCE))
    kinds = [type(c) for c in commands if isinstance(c, Kill | Reserve)]
    assert kinds == [Kill, Kill, Reserve]


def test_who_had_reported_before_it_stopped_is_given_up_too() -> None:
    state, _ = after(silent(), report("t0", silent()))
    assert state.phase is Phase.RUNNING
    assert Timer.PATIENCE in state.timers
    state, commands = after(state, TimerFired(Timer.PATIENCE))
    assert [c.trainer for c in commands if isinstance(c, Kill)] == ["t0"]
    assert state.generation is None


def test_who_stopped_after_its_report_is_given_up_by_those_that_wait_for_its_state() -> None:
    """A joiner that never suspected anybody kept the timer from being set: it waited for the state without end."""
    state, _ = after(founded(1), Resized(2), hello("t1"))
    state, _ = after(state, MessageReceived(Parked(trainer="t0", generation=1, round=1)))
    state, _ = after(state, Suspected("t0", "stopped"), report("t0", state, round=1, parked=True))
    assert (state.phase, state.members) == (Phase.RUNNING, ("t0", "t1"))
    assert Timer.PATIENCE in state.timers
    state, commands = apply(state, TimerFired(Timer.PATIENCE))
    assert [c.trainer for c in commands if isinstance(c, Kill)] == ["t0"]


@pytest.mark.parametrize("saved", [True, False])
def test_patience_is_shorter_where_there_is_a_checkpoint_to_go_on_from(saved: bool) -> None:
    state, _ = after(collecting(1), *([Committed("c4")] if saved else []))
    _, set_ = timers(state, Suspected("t0", "silent"))
    patience_s = deadlines.PATIENCE_S if saved else deadlines.PATIENCE_WITHOUT_CHECKPOINT_S
    assert set_ == (SetTimer(Timer.PATIENCE, patience_s),)


def test_who_comes_back_is_waited_for_anew_when_it_is_silent_again() -> None:
    state, set_ = timers(silent(1), SuspicionCleared("t0"))
    assert set_ == (CancelTimer(Timer.PATIENCE),)
    assert apply(state, TimerFired(Timer.PATIENCE)) == (state, ())
    _, set_ = timers(state, Suspected("t0", "silent"))
    assert set_ == (SetTimer(Timer.PATIENCE, deadlines.PATIENCE_WITHOUT_CHECKPOINT_S),)


def test_one_that_is_heard_is_waited_for_without_a_timer() -> None:
    state, _ = after(collecting(2), Suspected("t0", "silent"))
    assert Timer.PATIENCE not in state.timers
    state, _ = after(state, Suspected("t1", "silent"))
    assert Timer.PATIENCE in state.timers


# ---- the end


def test_an_attempt_that_has_ended_sets_and_cancels_nothing() -> None:
    _, commands = apply(silent(1), Cancelled("asked"))
    assert commands == (Finish(JobState.CANCELLED, "asked"),)


def test_a_hopeless_run_is_not_given_up_twice() -> None:
    state, commands = after(replace(silent(2), max_failures=0), TimerFired(Timer.PATIENCE))
    assert [c.outcome for c in commands if isinstance(c, Finish)] == ["failed"]
    assert state.ended


# ---- nothing to begin with


def test_a_run_whose_checkpoint_is_not_there_fails_unless_it_has_begun() -> None:
    state, commands = after(restoring(searching=True)[0], RestoreSourceMissing("no such place"))
    assert commands == (Finish(JobState.FAILED, "no such place"),)
    state, commands = after(replace(founded(1), searching=True), RestoreSourceMissing("no such place"))
    assert (state.searching, commands) == (False, ())
