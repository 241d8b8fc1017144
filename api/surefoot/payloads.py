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
    "DataData",
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
    "TrainerLostData",
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
# What a state machine was fed last and what it commanded, a line an event: as much as `surefoot_actors.story` keeps.
Story = Annotated[tuple[Annotated[str, Field(max_length=500)], ...], Field(max_length=50)]
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

    model_config = ConfigDict(frozen=True, extra="allow", use_attribute_docstrings=True)


class StateData(Payload):
    """The job's state changed."""

    state: _ToldState
    """The state that the job is in from now on."""
    reason: Text | None = None
    """Why, in a sentence; empty where there is nothing to say."""


class InstallingData(Payload):
    """Pip requirements of the code are being installed, where this trainer is to start."""

    trainer: Name | None = None
    """The name of the trainer that is to start."""
    requirements: Names | None = None
    """The requirements, as pip takes them."""


class DataData(Payload):
    """A trainer copies data of the job's to its node, for all trainers of that node, or has done so."""

    trainer: Name | None = None
    """The trainer that copies."""
    node: Name | None = None
    """The node that it copies to."""
    name: Name | None = None
    """What the job calls the data."""
    copied: bool | None = None
    """Whether it has been copied; false: it is about to be."""
    bytes: Whole | None = None
    """The size of all its files."""
    files: Whole | None = None
    """How many files it has."""
    seconds: Seconds | None = None
    """Seconds that it took."""
    digest: Digest | None = None
    """A hash of all that was copied, names and bytes: `digest` of a job's data takes it."""


class TrainerData(Payload):
    """A trainer is starting, is ready, is lost, is refused for its fingerprint, or has left as planned."""

    trainer: Name | None = None
    """The trainer's name, unique within the attempt."""
    reason: Text | None = None
    """Why it is lost, refused, or has left, in a sentence."""
    traceback: Text | None = None
    """Where its code raised, if that is how it was lost."""
    step: Whole | None = None
    """The step at whose boundary it left."""
    pid: Whole | None = None
    """The number of its process, on its node."""
    node: Name | None = None
    """The node that it runs on."""
    group: Name | None = None
    """The group that its node is of, as `ray.io/node-group` labels it: one of the service's setting `node_groups`, if that names it."""
    market: Name | None = None
    """How its node is bought, as `ray.io/market-type` labels it: "on-demand", "gke-spot"."""
    device: Name | None = None
    """The model of its node's GPUs, as `ray.io/accelerator-type` labels it."""


class TrainerLostData(TrainerData):
    """A trainer is lost: its process has died, has stopped, or does not answer, or its code raised."""

    story: Story | None = None
    """Where the fault is Surefoot's: the last events that its state machine was fed, with the commands they led to, oldest first."""


class GenerationData(Payload):
    """A generation was made: who is in it, since which step, and why."""

    generation: Whole
    """The number of the generation; every later one's is higher."""
    trainers: Names | Count | None = None
    """The names of its trainers, or only how many there are."""
    step: Whole | None = None
    """The step that it begins with."""
    reason: Text | None = None
    """Why it was made, in a sentence."""
    joined: Names | None = None
    """The trainers that were not in the generation before."""
    lost: Names | None = None
    """The trainers of the generation before that are lost."""
    left: Names | None = None
    """The trainers of the generation before that have left as planned."""
    sub_tasks_again: Whole | None = None
    """How many sub-tasks of its first step have to be computed again, as who had computed them is lost."""
    num_steps: Whole | None = None
    """How many steps the run has, where that is known."""


class LengthData(Payload):
    """It is known now how many steps the run has."""

    num_steps: Whole
    """How many steps the run has; 0: it is not known after all."""


class RecoveredData(Payload):
    """The first step after a loss is committed."""

    generation: Whole | None = None
    """The generation in which it was committed."""
    step: Whole | None = None
    """The number of the step."""
    seconds: Seconds | None = None
    """Seconds since the lost trainer was last known to run."""
    at: Annotated[float, Field(ge=0, le=1e11, allow_inf_nan=False)] | None = None
    """The unix time of the commit, in seconds."""
    sub_tasks_again: Whole | None = None
    """How many sub-tasks were computed again."""


class CheckpointData(Payload):
    """A checkpoint is durable from now on."""

    url: Url
    """Where it lies: a folder or an fsspec URL."""
    step: Whole | None = None
    """The step that training goes on with when it is restored."""
    bytes: Whole | None = None
    """The size of all its files."""
    seconds: Seconds | None = None
    """Seconds from the snapshot to the manifest."""
    stall_s: Seconds | None = None
    """The longest, in seconds, that a trainer's training thread was held for it."""
    reason: Text | None = None
    """Why it was made."""
    model: Url | Literal[""] | None = None
    """Where the final model lies, with the last checkpoint of a run that saves one; empty with any other."""


class CheckpointFailedData(Payload):
    """A checkpoint could not be written; training goes on."""

    step: Whole | None = None
    """The step that training would have gone on with."""
    reason: Text | None = None
    """What was wrong, in a sentence."""


class CheckpointSkippedData(Payload):
    """A checkpoint is torn or corrupt, so an older one is taken."""

    url: Text | None = None
    """The checkpoint that is passed over."""
    reason: Text | None = None
    """What is wrong with it, in a sentence."""


class RestoredData(Payload):
    """Training goes on from a checkpoint."""

    url: Url
    """The checkpoint."""
    step: Whole | None = None
    """The step that training goes on with."""
    trainer: Name | None = None
    """The trainer that read it; the others have the state from it."""
    first_step: Whole | None = None
    """Where another job made the checkpoint: the step at which this job's ledger begins."""


class FaultData(Payload):
    """A fault was injected by `surefoot chaos`; told before it is done."""

    kind: Name | None = None
    """The FaultKind."""
    trainer: Name | None = None
    """The trainer that it hits, if it is one."""
    node: Name | None = None
    """The node that it hits, or that the trainer is on."""
    left: Count | None = None
    """How many trainers that hold the run's state it leaves alive; 0: the job goes on from its newest checkpoint, or from step 0."""


class WarningData(Payload):
    """Something that a person should know.

    Of a job that makes no progress also `seconds`, and `trainers`: a list of objects with trainer, step, sub_task, line and waits_for.
    """

    message: Text | None = None
    """What it is, and what to do, in a sentence or two."""
    fault: Name | None = None
    """The FaultKind that was asked for and not done, where it is about one."""


class FailedData(Payload):
    """The attempt has failed, and with it the job."""

    reason: Text | None = None
    """Why, in a sentence."""
    traceback: Text | None = None
    """Of the user's code, where that is what failed."""
    trainer: Name | None = None
    """The trainer on which it failed, if it was one."""
    story: Story | None = None
    """Where the fault is Surefoot's: the last events that the state machine in question was fed, with the commands they led to, oldest
    first."""


class FinishedData(Payload):
    """Training has come to its end."""

    digest: Digest
    """The hash of the final tracked state: two runs of the same spec have the same one."""
    steps: Whole | None = None
    """How many steps there were: fewer than were asked for, where the run was stopped."""
    model: Url | Literal[""] | None = None
    """Where the final model lies; empty where none was saved."""
