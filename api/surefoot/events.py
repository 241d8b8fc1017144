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

    model_config = ConfigDict(frozen=True, extra="ignore")

    source: str
    n: int
    at: Moment
    kind: Annotated[EventKind | UnknownWord, Field(union_mode="left_to_right")]
    data: dict[str, JsonValue] = Field(default_factory=dict)


class SentBatch(BaseModel):
    """What a supervisor sends at a time. Not checked here, so that sending never fails: the control plane checks an UplinkBatch."""

    model_config = ConfigDict(frozen=True)

    # the first one that is wrong ends the validation: of a hundred thousand, nobody reads the errors
    events: Annotated[tuple[Event, ...], Field(max_length=MAX_BATCH, fail_fast=True)] = ()
    rows: Annotated[tuple[LedgerRow, ...], Field(max_length=MAX_BATCH, fail_fast=True)] = ()


class UplinkAck(BaseModel):
    """The control plane's answer: all of it is stored. The sender may forget it."""

    model_config = ConfigDict(frozen=True, extra="ignore")

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


class Command(BaseModel):
    """What the control plane asks of a supervisor, fetched by long poll. n counts from 1 within a job."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    n: Annotated[int, Field(ge=1)]
    kind: Annotated[CommandKind | UnknownWord, Field(union_mode="left_to_right")]
    trainers: int | None = None
    fault: Annotated[FaultKind | UnknownWord | None, Field(union_mode="left_to_right")] = None


class ClaimRequest(BaseModel):
    """A launcher trades its single-use claim code for the attempt's token."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["claim"] = "claim"
    code: Annotated[str, Field(min_length=20, max_length=200)]
