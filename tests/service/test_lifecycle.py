"""Every transition, allowed or not, and the story that a refusal tells."""

from __future__ import annotations

import pickle
from datetime import UTC, datetime, timedelta
from itertools import product

import pytest

from surefoot.spec import JobState
from surefoot_service.policy.lifecycle import TRANSITIONS, Life, Move, TransitionError, move

AT = datetime(2026, 1, 1, 12, 0, tzinfo=UTC)

ALLOWED = {
    ("queued", "starting"),
    ("starting", "running"),
    ("running", "recovering"),
    ("recovering", "running"),
    ("running", "succeeded"),
    ("recovering", "succeeded"),
    *product(("starting", "running", "recovering", "pausing", "paused"), ("queued",)),
    *product(("starting", "running", "recovering"), ("pausing",)),
    *product(("queued", "pausing"), ("paused",)),
    ("pausing", "succeeded"),
    *product(("queued", "starting", "running", "recovering", "pausing", "paused"), ("failed", "cancelled")),
}


def life(state: JobState) -> Life:
    return Life(job="j", moves=(Move(state=JobState.QUEUED, reason="", at=AT), Move(state=state, reason="why", at=AT)))


@pytest.mark.parametrize(("here", "to"), list(product(JobState, JobState)))
def test_every_transition(here: JobState, to: JobState) -> None:
    later = AT + timedelta(seconds=1)
    if here is to:
        told = move(life(here), to, reason="again", at=later)
        assert (told.state, told.moves[-1].reason, told.moves[-1].at) == (here, "again", AT)
    elif (here, to) in ALLOWED:
        told = move(life(here), to, reason="now", at=later)
        assert told.moves == (*life(here).moves, Move(state=to, reason="now", at=later))
    else:
        with pytest.raises(TransitionError, match=f"is {here} and cannot become {to}") as refused:
            move(life(here), to, reason="", at=later)
        assert "12:00:00 queued, then 12:00:00" in str(refused.value)
        assert "(why)" in str(refused.value)


def test_the_table_names_every_state_and_nothing_leaves_an_end() -> None:
    assert set(TRANSITIONS) == set(JobState)
    assert all(bool(TRANSITIONS[state]) is not state.ended for state in JobState)


def test_a_refusal_travels_between_processes() -> None:
    with pytest.raises(TransitionError) as refused:
        move(life(JobState.FAILED), JobState.RUNNING, reason="", at=AT)
    assert str(pickle.loads(pickle.dumps(refused.value))) == str(refused.value)
