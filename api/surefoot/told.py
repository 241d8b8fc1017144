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
from surefoot.names import SOURCE_PATTERN
from surefoot.payloads import (
    At,
    CheckpointData,
    CheckpointFailedData,
    CheckpointSkippedData,
    Count,
    DataData,
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
    TrainerLostData,
    WarningData,
    Whole,
)
from surefoot.rows import Circumstances, LedgerRow, Result
from surefoot.system import MAX_SAMPLES, SystemSample
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
        pattern=SOURCE_PATTERN,
    ),
    AfterValidator(_not_the_service),
]


class ToldEvent(BaseModel):
    """One event of an attempt. (source, n) is its key; n counts from 1 within a source."""

    # from_attributes: made of a reader's event as well, by those who pass one on
    model_config = ConfigDict(frozen=True, extra="ignore", from_attributes=True, use_attribute_docstrings=True)

    source: Source
    """Who of which attempt tells it ("JOB-2/supervisor-1f0c"), or a name that belongs to the first attempt that tells under it."""
    n: Annotated[int, Field(ge=1, le=bounds.MAX_WHOLE)]
    """Counts the events of a source, from 1."""
    at: At
    """When it happened, by the clock of whoever tells it."""


_bounded = BeforeValidator(bounds.check)
_KIND = Field(description="What happened; it says which fields `data` has.")
_DATA = Field(description="The facts. Fields beside those that are listed are kept, within the bounds of an event.")
_UNKNOWN = Field(
    description="What happened: a word that this version does not know.",
    json_schema_extra={"not": {"enum": [str(kind) for kind in EventKind]}},
)
_OPAQUE = Field(description="The facts: any object within the bounds of an event.")


class OtherTold(ToldEvent):
    """An event of a newer version's kind: kept, bounded, and not looked into."""

    kind: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,29}$"), _UNKNOWN]
    data: Annotated[dict[str, JsonValue], _bounded, _OPAQUE] = Field(default_factory=dict)


class StateTold(ToldEvent):
    """The job's state changed."""

    kind: Annotated[Literal[EventKind.STATE], _KIND]
    data: Annotated[StateData, _bounded, _DATA]


class InstallingTold(ToldEvent):
    """Pip requirements of the code are being installed."""

    kind: Annotated[Literal[EventKind.INSTALLING], _KIND]
    data: Annotated[InstallingData, _bounded, _DATA]


class DataTold(ToldEvent):
    """Data of the job's is copied to a node."""

    kind: Annotated[Literal[EventKind.DATA], _KIND]
    data: Annotated[DataData, _bounded, _DATA]


class TrainerStartedTold(ToldEvent):
    """A trainer is starting."""

    kind: Annotated[Literal[EventKind.TRAINER_STARTED], _KIND]
    data: Annotated[TrainerData, _bounded, _DATA]


class TrainerReadyTold(ToldEvent):
    """A trainer is ready to train."""

    kind: Annotated[Literal[EventKind.TRAINER_READY], _KIND]
    data: Annotated[TrainerData, _bounded, _DATA]


class TrainerLostTold(ToldEvent):
    """A trainer is lost."""

    kind: Annotated[Literal[EventKind.TRAINER_LOST], _KIND]
    data: Annotated[TrainerLostData, _bounded, _DATA]


class TrainerRefusedTold(ToldEvent):
    """A trainer is refused: it has another fingerprint."""

    kind: Annotated[Literal[EventKind.TRAINER_REFUSED], _KIND]
    data: Annotated[TrainerData, _bounded, _DATA]


class TrainerLeftTold(ToldEvent):
    """A trainer has left as planned."""

    kind: Annotated[Literal[EventKind.TRAINER_LEFT], _KIND]
    data: Annotated[TrainerData, _bounded, _DATA]


class GenerationTold(ToldEvent):
    """A generation was made."""

    kind: Annotated[Literal[EventKind.GENERATION], _KIND]
    data: Annotated[GenerationData, _bounded, _DATA]


class LengthTold(ToldEvent):
    """It is known now how many steps the run has."""

    kind: Annotated[Literal[EventKind.LENGTH], _KIND]
    data: Annotated[LengthData, _bounded, _DATA]


class RecoveredTold(ToldEvent):
    """The first step after a loss is committed."""

    kind: Annotated[Literal[EventKind.RECOVERED], _KIND]
    data: Annotated[RecoveredData, _bounded, _DATA]


class CheckpointTold(ToldEvent):
    """A checkpoint is durable."""

    kind: Annotated[Literal[EventKind.CHECKPOINT], _KIND]
    data: Annotated[CheckpointData, _bounded, _DATA]


class CheckpointFailedTold(ToldEvent):
    """A checkpoint could not be written."""

    kind: Annotated[Literal[EventKind.CHECKPOINT_FAILED], _KIND]
    data: Annotated[CheckpointFailedData, _bounded, _DATA]


class CheckpointSkippedTold(ToldEvent):
    """A checkpoint is passed over."""

    kind: Annotated[Literal[EventKind.CHECKPOINT_SKIPPED], _KIND]
    data: Annotated[CheckpointSkippedData, _bounded, _DATA]


class RestoredTold(ToldEvent):
    """Training goes on from a checkpoint."""

    kind: Annotated[Literal[EventKind.RESTORED], _KIND]
    data: Annotated[RestoredData, _bounded, _DATA]


class FaultTold(ToldEvent):
    """A fault was injected."""

    kind: Annotated[Literal[EventKind.FAULT], _KIND]
    data: Annotated[FaultData, _bounded, _DATA]


class WarningTold(ToldEvent):
    """Something that a person should know."""

    kind: Annotated[Literal[EventKind.WARNING], _KIND]
    data: Annotated[WarningData, _bounded, _DATA]


class FailedTold(ToldEvent):
    """The attempt has failed."""

    kind: Annotated[Literal[EventKind.FAILED], _KIND]
    data: Annotated[FailedData, _bounded, _DATA]


class FinishedTold(ToldEvent):
    """Training has come to its end."""

    kind: Annotated[Literal[EventKind.FINISHED], _KIND]
    data: Annotated[FinishedData, _bounded, _DATA]


_OTHER = "other"
_KNOWN = frozenset(EventKind)


def _tag(event: Any) -> str:
    kind = event.get("kind") if isinstance(event, dict) else getattr(event, "kind", None)
    return str(kind) if isinstance(kind, str) and kind in _KNOWN else _OTHER


AnyTold = Annotated[
    Annotated[StateTold, Tag(EventKind.STATE)]
    | Annotated[InstallingTold, Tag(EventKind.INSTALLING)]
    | Annotated[DataTold, Tag(EventKind.DATA)]
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
    """The number of the step, from 0."""
    first_sample: Annotated[int, Field(ge=0, le=2**90, strict=True)]
    """The position of the step's first sample in the endless stream of epoch permutations."""
    num_samples: Annotated[int, Field(ge=1, le=bounds.MAX_WHOLE, strict=True)]
    """How many samples the step has: the positions from `first_sample` on."""
    digest: Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
    """A 128-bit hash, in hex, over the chunk digests of every round of the step, in order."""
    values: Annotated[dict[Name, float], Field(max_length=10_000)] = Field(default_factory=dict)
    """The merged logged scalars by name, the same on every trainer. What is no finite number is a text: "NaN", "Infinity"."""


class ToldCircumstances(Circumstances):
    """The circumstances of a row, within bounds. Numbers are numbers, and not texts that could be read as such."""

    model_config = ConfigDict(from_attributes=True)

    generation: Annotated[Whole, Field(strict=True)]
    """The generation in which the step was committed."""
    trainers: Annotated[Count, Field(strict=True)]
    """How many trainers that generation had."""
    seconds: Annotated[Seconds, Field(strict=True)]
    """Seconds from the step before to this one's commit, on the trainer that told."""
    at: Annotated[float, Field(ge=0, le=1e11, allow_inf_nan=False, strict=True)] = 0.0
    """The unix time of the commit, in seconds; 0 where it is not told."""
    epoch_samples: Annotated[Whole, Field(strict=True, exclude_if=lambda n: not n)] = 0
    """How many samples an epoch has: told with every hundredth step, once it is known."""
    nondeterministic: Annotated[tuple[Name, ...], Field(max_length=1000)] = Field(
        default=(), exclude_if=lambda names: not names
    )
    """What was computed without a deterministic form, on purpose."""


class ToldRow(LedgerRow):
    """A ledger row of an attempt. A newer supervisor's fields are dropped: rows are compared byte for byte, by what is known here."""

    model_config = ConfigDict(from_attributes=True)

    result: ToldResult
    """What is compared byte for byte between runs."""
    circumstances: ToldCircumstances
    """What may differ between runs."""
    unreadable: Literal[""] = Field(default="", exclude=True)
    """Always empty: only what a store has can be unreadable."""


class UplinkBatch(BaseModel):
    """What a supervisor posts: everything not yet acknowledged, at most so much at a time. A newer one's fields are dropped."""

    model_config = ConfigDict(frozen=True, extra="ignore", use_attribute_docstrings=True)

    events: Annotated[tuple[AnyTold, ...], FailFast(), Field(max_length=MAX_BATCH)] = ()
    """Events that are not acknowledged yet."""
    rows: Annotated[tuple[ToldRow, ...], FailFast(), Field(max_length=MAX_BATCH)] = ()
    """Ledger rows that are not acknowledged yet."""
    system: Annotated[tuple[SystemSample, ...], FailFast(), Field(max_length=MAX_SAMPLES)] = ()
    """What trainers use, each one's newest sample. They are told once: one that is lost is not told again."""
