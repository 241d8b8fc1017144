"""What each kind of event says: one frozen payload a kind, strict, for the door of the control plane.

Fields that a newer supervisor adds to a known kind are kept, bounded as everything is (`surefoot.bounds`); a kind that is not known is
kept whole, as an opaque object. Neither means anything here, but readers of that version find it.
"""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Annotated, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from surefoot.bounds import MAX_TEXT, MAX_WHOLE
from surefoot.spec import JobState

__all__ = [
    "At",
    "CheckpointData",
    "CheckpointFailedData",
    "CheckpointSkippedData",
    "Count",
    "FailedData",
    "FaultData",
    "FinishedData",
    "GenerationData",
    "InstallingData",
    "LengthData",
    "Name",
    "Payload",
    "RecoveredData",
    "RestoredData",
    "Seconds",
    "StateData",
    "TrainerData",
    "WarningData",
    "Whole",
]

_MANY = 10_000

# Clocks of nodes may be wrong by years, and what happened is told all the same; but every reader can count with it.
At = Annotated[
    AwareDatetime, Field(ge=datetime(2000, 1, 1, tzinfo=timezone.utc), lt=datetime(2200, 1, 1, tzinfo=timezone.utc))
]
Whole = Annotated[int, Field(ge=0, le=MAX_WHOLE)]
# how many trainers there are, which the store keeps in 32 bits
Count = Annotated[int, Field(ge=0, le=1_000_000)]
Seconds = Annotated[float, Field(ge=0, le=1e9, allow_inf_nan=False)]
Name = Annotated[str, Field(max_length=500)]
Text = Annotated[str, Field(max_length=MAX_TEXT)]
# as long as a place for checkpoints may be, and the name of one in it
Url = Annotated[str, Field(min_length=1, max_length=2000, pattern=r"^[^\x00-\x1f\x7f]+$")]
Names = Annotated[tuple[Name, ...], Field(max_length=_MANY)]
Digest = Annotated[str, Field(pattern=r"^[\w:.-]{1,64}$")]

# Only the control plane queues a job.
_ToldState = Literal[
    JobState.STARTING,
    JobState.RUNNING,
    JobState.RECOVERING,
    JobState.PAUSING,
    JobState.PAUSED,
    JobState.SUCCEEDED,
    JobState.FAILED,
    JobState.CANCELLED,
]


class Payload(BaseModel):
    """The data of an event. What the control plane counts on is required; anything else may be missing, or null."""

    model_config = ConfigDict(frozen=True, extra="allow")


class StateData(Payload):
    """The job's state changed."""

    state: _ToldState
    reason: Text | None = None


class InstallingData(Payload):
    """Pip requirements of the code are being installed, where this trainer is to start."""

    trainer: Name | None = None
    requirements: Names | None = None


class TrainerData(Payload):
    """A trainer is starting, is ready, is lost, is refused for its fingerprint, or has left as planned."""

    trainer: Name | None = None
    reason: Text | None = None
    # where its code raised
    traceback: Text | None = None
    step: Whole | None = None
    pid: Whole | None = None
    node: Name | None = None


class GenerationData(Payload):
    """A generation was made: who is in it, since which step, and why."""

    generation: Whole
    # their names, or only how many
    trainers: Names | Count | None = None
    step: Whole | None = None
    reason: Text | None = None
    joined: Names | None = None
    lost: Names | None = None
    left: Names | None = None
    sub_tasks_again: Whole | None = None
    num_steps: Whole | None = None


class LengthData(Payload):
    """It is known now how many steps the run has."""

    num_steps: Whole


class RecoveredData(Payload):
    """The first step after a loss is committed."""

    generation: Whole | None = None
    step: Whole | None = None
    # since the lost trainer was last known to run
    seconds: Seconds | None = None
    # unix time of the commit
    at: Annotated[float, Field(ge=0, le=1e11, allow_inf_nan=False)] | None = None
    sub_tasks_again: Whole | None = None


class CheckpointData(Payload):
    """A checkpoint is durable from now on."""

    url: Url
    # the step that training goes on with
    step: Whole | None = None
    bytes: Whole | None = None
    # from the snapshot to the manifest
    seconds: Seconds | None = None
    # the longest that a trainer's training thread was held for it
    stall_s: Seconds | None = None
    reason: Text | None = None
    # where the final model lies
    model: Url | Literal[""] | None = None


class CheckpointFailedData(Payload):
    """A checkpoint could not be written; training goes on."""

    step: Whole | None = None
    reason: Text | None = None


class CheckpointSkippedData(Payload):
    """A checkpoint is torn or corrupt, so an older one is taken."""

    url: Text | None = None
    reason: Text | None = None


class RestoredData(Payload):
    """Training goes on from a checkpoint."""

    url: Url
    step: Whole | None = None
    trainer: Name | None = None
    # where another job made the checkpoint: this job's ledger begins there
    first_step: Whole | None = None


class FaultData(Payload):
    """A fault was injected by `surefoot chaos`; told before it is done."""

    kind: Name | None = None
    trainer: Name | None = None
    node: Name | None = None


class WarningData(Payload):
    """Something that a person should know."""

    message: Text | None = None


class FailedData(Payload):
    """The attempt has failed, and with it the job."""

    reason: Text | None = None
    traceback: Text | None = None
    trainer: Name | None = None


class FinishedData(Payload):
    """Training has come to its end."""

    # of the final tracked state
    digest: Digest
    # fewer than were asked for, where the run was stopped
    steps: Whole | None = None
    model: Url | Literal[""] | None = None
