"""What the membership machine is fed."""

from __future__ import annotations

from dataclasses import dataclass

from surefoot.spec import JobState
from surefoot_actors.protocol.death_cause import DeathCause
from surefoot_actors.protocol.membership.state import Timer
from surefoot_actors.protocol.messages import FromTrainer

__all__ = [
    "Cancelled",
    "CheckpointsFound",
    "Committed",
    "Event",
    "Lost",
    "MessageReceived",
    "PauseRequested",
    "Reserved",
    "Resized",
    "RestoreSourceMissing",
    "RowRecorded",
    "Started",
    "StateSaved",
    "Survivors",
    "Suspected",
    "SuspicionCleared",
    "TimerFired",
]


@dataclass(frozen=True, slots=True)
class MessageReceived:
    """A trainer's message."""

    message: FromTrainer


@dataclass(frozen=True, slots=True)
class Lost:
    """The trainer's process is dead, for certain."""

    trainer: str
    reason: str
    # (round, sub-task) that it was computing when it died; None: it was not, as far as is known
    computing: tuple[int, int] | None = None
    # of what its code raised; empty: it did not
    traceback: str = ""
    # the last events of its machine, a line each, where the fault is Surefoot's own
    story: tuple[str, ...] = ()
    cause: DeathCause = DeathCause.PROCESS


@dataclass(frozen=True, slots=True)
class Suspected:
    """The trainer is stopped or silent. Only ends the waiting for it (R9)."""

    trainer: str
    reason: str


@dataclass(frozen=True, slots=True)
class SuspicionCleared:
    """The trainer that was suspected shows life again."""

    trainer: str


@dataclass(frozen=True, slots=True)
class Reserved:
    """`number` is durable (R3). `nonce` names the process group together with it."""

    number: int
    nonce: str


@dataclass(frozen=True, slots=True)
class Resized:
    target: int


@dataclass(frozen=True, slots=True)
class Cancelled:
    reason: str


@dataclass(frozen=True, slots=True)
class TimerFired:
    """The time is over for which this was set. Not told of a timer that is cancelled, or set anew, before this is handled."""

    timer: Timer


@dataclass(frozen=True, slots=True)
class Started:
    """A trainer's process runs (its train function has not reached `steps()` yet)."""

    trainer: str


@dataclass(frozen=True, slots=True)
class Survivors:
    """A restarted supervisor has found these trainers alive, and this generation in the journal."""

    trainers: tuple[str, ...]
    number: int
    members: tuple[str, ...]
    # the outcome that is recorded; None: there is none
    finished: JobState | None
    # of the trainers that earlier supervisors asked for: their names are not used again
    num_started: int = 0
    # those of them that were no members when the last one was asked for
    waiting: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Committed:
    """A checkpoint is durable from now on."""

    url: str


@dataclass(frozen=True, slots=True)
class CheckpointsFound:
    """These checkpoints were there already, newest first; all are older than those Committed."""

    urls: tuple[str, ...]
    # of those, the ones of another job: what the run may begin from
    others: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class RestoreSourceMissing:
    """Told in place of CheckpointsFound: the checkpoint that the job is to begin from is not there, or is not for it."""

    reason: str


@dataclass(frozen=True, slots=True)
class RowRecorded:
    """There is a ledger row of this step. Need not be told but before a loss is: losses with steps in between are not held together."""

    step: int


@dataclass(frozen=True, slots=True)
class PauseRequested:
    """Stop at the next step boundary. Told again to a supervisor that is restarted."""


@dataclass(frozen=True, slots=True)
class StateSaved:
    """What SaveState asked for is durable, or is given up on: then `error` says why."""

    error: str = ""


Event = (
    Committed
    | PauseRequested
    | StateSaved
    | CheckpointsFound
    | RestoreSourceMissing
    | RowRecorded
    | MessageReceived
    | Lost
    | Suspected
    | SuspicionCleared
    | Reserved
    | Resized
    | Cancelled
    | TimerFired
    | Started
)
