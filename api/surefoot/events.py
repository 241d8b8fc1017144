"""What a job tells: ledger rows and events. Natural keys, so that neither is ever lost or doubled."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from surefoot._compat import StrEnum

__all__ = [
    "SUPERVISOR_RESTARTED",
    "Circumstances",
    "Command",
    "CommandKind",
    "Event",
    "EventKind",
    "FaultKind",
    "LedgerRow",
    "Result",
    "UplinkAck",
    "UplinkBatch",
]

Hex128 = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]


class Result(BaseModel):
    """The part of a ledger row that is the promise: compared byte for byte between runs."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")

    step: Annotated[int, Field(ge=0, le=2**53)]
    # positions [first_sample, first_sample + num_samples) of the endless stream of epoch permutations
    first_sample: Annotated[int, Field(ge=0)]
    num_samples: Annotated[int, Field(ge=1)]
    # 128-bit hash over the chunk digests of every round of the step, in order
    digest: Hex128
    # merged logged scalars by name, the same on every trainer
    values: dict[str, float] = Field(default_factory=dict)

    def canonical(self) -> bytes:
        """The bytes that two runs are compared by: sorted compact JSON, floats by shortest exact repr."""
        return json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":")).encode()


class Circumstances(BaseModel):
    """The part of a ledger row that may differ: who computed it and how long it took."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    generation: int
    trainers: int
    # from the step before to this one's commit, on the trainer that told
    seconds: float
    # unix time of the commit
    at: float = 0.0
    # what was computed without a deterministic form, on purpose; told only where there is some, as older readers do not know it
    nondeterministic: tuple[str, ...] = Field(default=(), exclude_if=lambda names: not names)


class LedgerRow(BaseModel):
    """A step's record. Keyed by the step: a row told twice is the same row (R10)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    result: Result
    circumstances: Circumstances


# Why a generation was made, where nobody but the supervisor was lost.
SUPERVISOR_RESTARTED = "the supervisor was restarted"


class EventKind(StrEnum):
    """What happens to a job, in the words of the design. Data by kind is documented in ARCHITECTURE.md."""

    STATE = "state"  # the job's state changed: {"state", "reason"}
    INSTALLING = (
        "installing"  # {"trainer", "requirements"}: pip requirements of the code, where this trainer is to start
    )
    TRAINER_STARTED = "trainer_started"  # {"trainer"}
    TRAINER_READY = "trainer_ready"  # {"trainer", "pid", "node"}
    TRAINER_LOST = "trainer_lost"  # {"trainer", "reason"}; with "traceback" where its code raised
    TRAINER_REFUSED = "trainer_refused"  # {"trainer", "reason"}: another fingerprint
    TRAINER_LEFT = "trainer_left"  # {"trainer", "step", "reason"}: planned
    GENERATION = "generation"  # {"generation", "trainers", "step", "reason", "joined", "lost", "left", "num_steps"}
    LENGTH = "length"  # {"num_steps"}: it is known now how many steps the run has
    # {"generation", "step", "seconds", "sub_tasks_again"}. seconds: since the lost trainer was last known to run
    RECOVERED = "recovered"
    # {"step", "url", "bytes", "seconds", "stall_s", "reason"}: durable from now on. seconds: from the snapshot to the manifest;
    # stall_s: the longest that a trainer's training thread was held for it
    CHECKPOINT = "checkpoint"
    CHECKPOINT_FAILED = "checkpoint_failed"  # {"step", "reason"}: could not be written; training goes on
    CHECKPOINT_SKIPPED = "checkpoint_skipped"  # {"url", "reason"}: torn or corrupt, so an older one is taken
    # {"step", "url", "trainer"}: training goes on from a checkpoint. With "first_step" where another job made it: this job's ledger
    # begins there
    RESTORED = "restored"
    FAULT = "fault"  # {"kind", "trainer", "node"}: injected by `surefoot chaos`; told before it is done
    # {"message"}; of a job that makes no progress also "seconds" and "trainers", a list of {"trainer", "step", "sub_task", "line",
    # "waits_for"}
    WARNING = "warning"
    FAILED = "failed"  # {"reason", "traceback", "trainer"}
    FINISHED = "finished"  # {"steps", "digest"}: digest of the final tracked state


class Event(BaseModel):
    """One thing that happened. (source, n) is its key; n counts from 1 within a source."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: Annotated[str, Field(max_length=100)]
    n: Annotated[int, Field(ge=1, le=2**53)]
    at: datetime
    kind: EventKind
    data: dict[str, JsonValue] = Field(default_factory=dict)


class UplinkBatch(BaseModel):
    """What a supervisor posts: everything not yet acknowledged, at most so much at a time."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    events: tuple[Event, ...] = ()
    rows: tuple[LedgerRow, ...] = ()


class UplinkAck(BaseModel):
    """The control plane's answer: all of it is stored. The sender may forget it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    # by source: every event with n up to and including this is stored
    events: dict[str, int] = Field(default_factory=dict)
    # every ledger row of a step below this is stored, without a gap
    rows_below: int = 0


class CommandKind(StrEnum):
    RESIZE = "resize"  # {"trainers": n}
    CANCEL = "cancel"
    CHECKPOINT = "checkpoint"  # make one at the next step boundary
    PAUSE = "pause"  # stop at a step boundary, save, and end the attempt
    FAULT = "fault"  # {"fault": kind}: `surefoot chaos`


class FaultKind(StrEnum):
    """What `surefoot chaos` does to a job, for real."""

    TRAINER = "trainer"  # SIGKILL a trainer's process
    FREEZE = "freeze"  # SIGSTOP a trainer's process
    SUPERVISOR = "supervisor"  # SIGKILL the supervisor's process
    NODE = "node"  # SIGKILL the raylet of a trainer's node (not the head's)


class Command(BaseModel):
    """What the control plane asks of a supervisor, fetched by long poll. n counts from 1 within a job."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    n: Annotated[int, Field(ge=1)]
    kind: CommandKind
    trainers: int | None = None
    fault: FaultKind | None = None


class ClaimRequest(BaseModel):
    """A launcher trades its single-use claim code for the attempt's token."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["claim"] = "claim"
    code: Annotated[str, Field(min_length=20, max_length=200)]
