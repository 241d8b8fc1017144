"""What an attempt may tell the control plane: strict where it enters. The readers' models are in `surefoot.events`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    FailFast,
    Field,
    JsonValue,
    Tag,
)

from surefoot import bounds
from surefoot.payloads import (
    At,
    CheckpointData,
    CheckpointFailedData,
    CheckpointSkippedData,
    Count,
    FailedData,
    FaultData,
    FinishedData,
    GenerationData,
    InstallingData,
    LengthData,
    Name,
    RecoveredData,
    RestoredData,
    Seconds,
    StateData,
    TrainerData,
    WarningData,
    Whole,
)
from surefoot.rows import Circumstances, LedgerRow, Result
from surefoot.words import EventKind

__all__ = ["MAX_BATCH", "AnyTold", "OtherTold", "ToldEvent", "ToldRow", "UplinkBatch"]

# events, and rows, of one batch: twice what a supervisor sends
MAX_BATCH = 2000


def _not_the_service(source: str) -> str:
    if source.lower() == "service":
        raise ValueError("only the control plane tells as the service")
    return source


# "JOB-2/supervisor-1f0c": who of which attempt; or a name that belongs to the first attempt that tells under it. "service" is nobody's:
# the control plane's own events are told under it.
Source = Annotated[
    str,
    Field(
        max_length=100,
        pattern=r"^([a-z0-9-]{1,60}/(supervisor|trainer|launcher)(-[A-Za-z0-9._-]{1,40})?|[A-Za-z0-9][A-Za-z0-9._-]{0,60})$",
    ),
    AfterValidator(_not_the_service),
]


class ToldEvent(BaseModel):
    """One event of an attempt. (source, n) is its key; n counts from 1 within a source."""

    # from_attributes: made of a reader's event as well, by those who pass one on
    model_config = ConfigDict(frozen=True, extra="ignore", from_attributes=True)

    source: Source
    n: Annotated[int, Field(ge=1, le=bounds.MAX_WHOLE)]
    at: At


_bounded = BeforeValidator(bounds.check)


class OtherTold(ToldEvent):
    """An event of a newer version's kind: kept, bounded, and not looked into."""

    kind: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,29}$")]
    data: Annotated[dict[str, JsonValue], _bounded] = Field(default_factory=dict)


class StateTold(ToldEvent):
    kind: Literal[EventKind.STATE]
    data: Annotated[StateData, _bounded]


class InstallingTold(ToldEvent):
    kind: Literal[EventKind.INSTALLING]
    data: Annotated[InstallingData, _bounded]


class TrainerStartedTold(ToldEvent):
    kind: Literal[EventKind.TRAINER_STARTED]
    data: Annotated[TrainerData, _bounded]


class TrainerReadyTold(ToldEvent):
    kind: Literal[EventKind.TRAINER_READY]
    data: Annotated[TrainerData, _bounded]


class TrainerLostTold(ToldEvent):
    kind: Literal[EventKind.TRAINER_LOST]
    data: Annotated[TrainerData, _bounded]


class TrainerRefusedTold(ToldEvent):
    kind: Literal[EventKind.TRAINER_REFUSED]
    data: Annotated[TrainerData, _bounded]


class TrainerLeftTold(ToldEvent):
    kind: Literal[EventKind.TRAINER_LEFT]
    data: Annotated[TrainerData, _bounded]


class GenerationTold(ToldEvent):
    kind: Literal[EventKind.GENERATION]
    data: Annotated[GenerationData, _bounded]


class LengthTold(ToldEvent):
    kind: Literal[EventKind.LENGTH]
    data: Annotated[LengthData, _bounded]


class RecoveredTold(ToldEvent):
    kind: Literal[EventKind.RECOVERED]
    data: Annotated[RecoveredData, _bounded]


class CheckpointTold(ToldEvent):
    kind: Literal[EventKind.CHECKPOINT]
    data: Annotated[CheckpointData, _bounded]


class CheckpointFailedTold(ToldEvent):
    kind: Literal[EventKind.CHECKPOINT_FAILED]
    data: Annotated[CheckpointFailedData, _bounded]


class CheckpointSkippedTold(ToldEvent):
    kind: Literal[EventKind.CHECKPOINT_SKIPPED]
    data: Annotated[CheckpointSkippedData, _bounded]


class RestoredTold(ToldEvent):
    kind: Literal[EventKind.RESTORED]
    data: Annotated[RestoredData, _bounded]


class FaultTold(ToldEvent):
    kind: Literal[EventKind.FAULT]
    data: Annotated[FaultData, _bounded]


class WarningTold(ToldEvent):
    kind: Literal[EventKind.WARNING]
    data: Annotated[WarningData, _bounded]


class FailedTold(ToldEvent):
    kind: Literal[EventKind.FAILED]
    data: Annotated[FailedData, _bounded]


class FinishedTold(ToldEvent):
    kind: Literal[EventKind.FINISHED]
    data: Annotated[FinishedData, _bounded]


_OTHER = "other"
_KNOWN = frozenset(EventKind)


def _tag(event: Any) -> str:
    kind = event.get("kind") if isinstance(event, dict) else getattr(event, "kind", None)
    return str(kind) if isinstance(kind, str) and kind in _KNOWN else _OTHER


AnyTold = Annotated[
    Annotated[StateTold, Tag(EventKind.STATE)]
    | Annotated[InstallingTold, Tag(EventKind.INSTALLING)]
    | Annotated[TrainerStartedTold, Tag(EventKind.TRAINER_STARTED)]
    | Annotated[TrainerReadyTold, Tag(EventKind.TRAINER_READY)]
    | Annotated[TrainerLostTold, Tag(EventKind.TRAINER_LOST)]
    | Annotated[TrainerRefusedTold, Tag(EventKind.TRAINER_REFUSED)]
    | Annotated[TrainerLeftTold, Tag(EventKind.TRAINER_LEFT)]
    | Annotated[GenerationTold, Tag(EventKind.GENERATION)]
    | Annotated[LengthTold, Tag(EventKind.LENGTH)]
    | Annotated[RecoveredTold, Tag(EventKind.RECOVERED)]
    | Annotated[CheckpointTold, Tag(EventKind.CHECKPOINT)]
    | Annotated[CheckpointFailedTold, Tag(EventKind.CHECKPOINT_FAILED)]
    | Annotated[CheckpointSkippedTold, Tag(EventKind.CHECKPOINT_SKIPPED)]
    | Annotated[RestoredTold, Tag(EventKind.RESTORED)]
    | Annotated[FaultTold, Tag(EventKind.FAULT)]
    | Annotated[WarningTold, Tag(EventKind.WARNING)]
    | Annotated[FailedTold, Tag(EventKind.FAILED)]
    | Annotated[FinishedTold, Tag(EventKind.FINISHED)]
    | Annotated[OtherTold, Tag(_OTHER)],
    Discriminator(_tag),
]


class ToldResult(Result):
    """The result part of a row, within bounds. Logged values may be no numbers: losses are."""

    model_config = ConfigDict(from_attributes=True)

    step: Annotated[Whole, Field(strict=True)]
    first_sample: Annotated[int, Field(ge=0, le=2**90, strict=True)]
    num_samples: Annotated[int, Field(ge=1, le=bounds.MAX_WHOLE, strict=True)]
    digest: Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
    values: Annotated[dict[Name, float], Field(max_length=10_000)] = Field(default_factory=dict)


class ToldCircumstances(Circumstances):
    """The circumstances of a row, within bounds."""

    model_config = ConfigDict(from_attributes=True)

    # numbers, not texts that could be read as such
    generation: Annotated[Whole, Field(strict=True)]
    trainers: Annotated[Count, Field(strict=True)]
    seconds: Annotated[Seconds, Field(strict=True)]
    at: Annotated[float, Field(ge=0, le=1e11, allow_inf_nan=False, strict=True)] = 0.0
    nondeterministic: Annotated[tuple[Name, ...], Field(max_length=1000)] = Field(
        default=(), exclude_if=lambda names: not names
    )


class ToldRow(LedgerRow):
    """A ledger row of an attempt. A newer supervisor's fields are dropped: rows are compared byte for byte, by what is known here."""

    model_config = ConfigDict(from_attributes=True)

    result: ToldResult
    circumstances: ToldCircumstances
    unreadable: Literal[""] = Field(default="", exclude=True)


class UplinkBatch(BaseModel):
    """What a supervisor posts: everything not yet acknowledged, at most so much at a time. A newer one's fields are dropped."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    events: Annotated[tuple[AnyTold, ...], FailFast(), Field(max_length=MAX_BATCH)] = ()
    rows: Annotated[tuple[ToldRow, ...], FailFast(), Field(max_length=MAX_BATCH)] = ()
