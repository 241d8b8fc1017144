"""A job's life: one transition table, one function that applies it. Pure.

    queued ──▶ starting ──▶ running ⇄ recovering ──▶ succeeded | failed | cancelled
      ▲ └──────────────────────── pausing ──▶ paused ──▶ queued
      └── from everywhere on the cluster, when a whole attempt is lost

A job may end as failed or cancelled from anywhere before the end; it succeeds only after it ran. A queued one is paused at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime

from surefoot.errors import SurefootError
from surefoot.spec import JobState

__all__ = ["TRANSITIONS", "Life", "Move", "TransitionError", "after_steps", "move"]

_UNFINISHED_ENDS = frozenset({JobState.FAILED, JobState.CANCELLED})

TRANSITIONS: Mapping[JobState, frozenset[JobState]] = {
    JobState.QUEUED: _UNFINISHED_ENDS | {JobState.STARTING, JobState.PAUSED},
    JobState.STARTING: _UNFINISHED_ENDS | {JobState.QUEUED, JobState.RUNNING, JobState.PAUSING},
    JobState.RUNNING: _UNFINISHED_ENDS | {JobState.QUEUED, JobState.RECOVERING, JobState.PAUSING, JobState.SUCCEEDED},
    JobState.RECOVERING: _UNFINISHED_ENDS | {JobState.QUEUED, JobState.RUNNING, JobState.PAUSING, JobState.SUCCEEDED},
    # it may come to its end before it comes to the step boundary
    JobState.PAUSING: _UNFINISHED_ENDS | {JobState.QUEUED, JobState.PAUSED, JobState.SUCCEEDED},
    JobState.PAUSED: _UNFINISHED_ENDS | {JobState.QUEUED},
    JobState.SUCCEEDED: frozenset(),
    JobState.FAILED: frozenset(),
    JobState.CANCELLED: frozenset(),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Move:
    """One state a job came to, and why."""

    state: JobState
    reason: str
    at: datetime

    def __str__(self) -> str:
        return f"{self.at:%H:%M:%S} {self.state}" + (f" ({self.reason})" if self.reason else "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Life:
    """A job's states so far, oldest first; never empty."""

    job: str
    moves: tuple[Move, ...]

    @property
    def state(self) -> JobState:
        return self.moves[-1].state


def after_steps(steps_done: int) -> str:
    """How far a job had come that is ended from outside, for its reason: nothing where it had not begun."""
    return f", after {steps_done} step{'' if steps_done == 1 else 's'}" if steps_done else ""


class TransitionError(SurefootError):
    """A job was asked to go where its state does not lead; the message tells its story."""

    def __init__(self, life: Life, to: JobState) -> None:
        story = ", then ".join(str(m) for m in life.moves)
        super().__init__(f"job {life.job} is {life.state} and cannot become {to}; its story: {story}")
        self.life, self.to = life, to

    def __reduce__(self) -> tuple[type[TransitionError], tuple[Life, JobState]]:
        return TransitionError, (self.life, self.to)


def move(life: Life, to: JobState, *, reason: str, at: datetime) -> Life:
    """Return the life with one more move. Being told the present state again changes only the reason.

    Raises TransitionError where the table has no such transition.
    """
    now = life.moves[-1]
    if to is now.state:
        return replace(life, moves=(*life.moves[:-1], replace(now, reason=reason or now.reason)))
    if to not in TRANSITIONS[now.state]:
        raise TransitionError(life, to)
    return replace(life, moves=(*life.moves, Move(state=to, reason=reason, at=at)))
