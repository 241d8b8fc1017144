"""What a job tells: ledger rows and events. Natural keys, so that neither is ever lost or doubled.

These are the readers' models, and lenient: they take what an older or a newer version has stored or answers. What an attempt may tell
the control plane is in `surefoot.told`.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from surefoot._compat import StrEnum
from surefoot.moments import Moment
from surefoot.rows import Circumstances, LedgerRow, Result
from surefoot.system import MAX_SAMPLES, SystemSample
from surefoot.told import MAX_BATCH, UplinkBatch
from surefoot.words import EventKind, FaultKind, UnknownWord

__all__ = [
    "MAX_BATCH",
    "SUPERVISOR_RESTARTED",
    "Circumstances",
    "Command",
    "CommandKind",
    "Event",
    "EventKind",
    "FaultKind",
    "LedgerRow",
    "Result",
    "SentBatch",
    "UplinkAck",
    "UplinkBatch",
]

# Why a generation was made, where nobody but the supervisor was lost.
SUPERVISOR_RESTARTED = "the supervisor was restarted"


class Event(BaseModel):
    """One thing that happened. (source, n) is its key; n counts from 1 within a source. Read leniently: kinds may be a newer version's."""

    model_config = ConfigDict(frozen=True, extra="ignore", use_attribute_docstrings=True)

    source: str
    """Who told it: "service" is the control plane, any other name belongs to one attempt of the job ("JOB-2/supervisor-1f0c")."""
    n: int
    """Counts the events of a source, from 1."""
    at: Moment
    """When it happened, by the clock of whoever told it."""
    kind: Annotated[EventKind | UnknownWord, Field(union_mode="left_to_right")]
    """What happened; it says which fields `data` has. A kind that only a newer version knows is kept as its bare name."""
    data: dict[str, JsonValue] = Field(default_factory=dict)
    """The facts, by kind: `surefoot.payloads` has the fields of each. A newer version may have told more, an older one less."""


class SentBatch(BaseModel):
    """What a supervisor sends at a time. Not checked here, so that sending never fails: the control plane checks an UplinkBatch."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    # the first one that is wrong ends the validation: of a hundred thousand, nobody reads the errors
    events: Annotated[tuple[Event, ...], Field(max_length=MAX_BATCH, fail_fast=True)] = ()
    """Events that are not acknowledged yet."""
    rows: Annotated[tuple[LedgerRow, ...], Field(max_length=MAX_BATCH, fail_fast=True)] = ()
    """Ledger rows that are not acknowledged yet."""
    system: Annotated[
        tuple[SystemSample, ...], Field(max_length=MAX_SAMPLES, exclude_if=lambda samples: not samples)
    ] = ()
    """What trainers use, each one's newest sample; older services take no note of it."""


class UplinkAck(BaseModel):
    """The control plane's answer: all of it is stored. The sender may forget it."""

    model_config = ConfigDict(frozen=True, extra="ignore", use_attribute_docstrings=True)

    events: dict[str, int] = Field(default_factory=dict)
    """By source: every event with n up to and including this is stored."""
    rows_below: int = 0
    """Every ledger row of a step below this is stored, without a gap."""


class CommandKind(StrEnum):
    """What may be asked of a supervisor: `resize` to other trainers, `cancel`, make a `checkpoint` at the next step boundary, `pause`
    (stop at a step boundary, save, and end the attempt), or do the job a `fault` (`surefoot chaos`)."""

    RESIZE = "resize"
    CANCEL = "cancel"
    CHECKPOINT = "checkpoint"
    PAUSE = "pause"
    FAULT = "fault"


class Command(BaseModel):
    """What the control plane asks of a supervisor, fetched by long poll. n counts from 1 within a job."""

    model_config = ConfigDict(frozen=True, extra="ignore", use_attribute_docstrings=True)

    n: Annotated[int, Field(ge=1)]
    """Counts the commands of a job, from 1."""
    kind: Annotated[CommandKind | UnknownWord, Field(union_mode="left_to_right")]
    """What is asked; one that only a newer version knows is kept as its bare name."""
    trainers: int | None = None
    """Of a resize: how many trainers are wanted from now on. Of a fault: how many that hold the state live on; null: one."""
    fault: Annotated[FaultKind | UnknownWord | None, Field(union_mode="left_to_right")] = None
    """Of a fault: which one."""


class ClaimRequest(BaseModel):
    """A launcher trades its single-use claim code for the attempt's token."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    kind: Literal["claim"] = "claim"
    """Always "claim"."""
    code: Annotated[str, Field(min_length=20, max_length=200)]
    """The claim code that the launcher was started with. It can be traded once."""
