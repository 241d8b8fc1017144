"""The ledger's rows as they are read, leniently: what an older or a newer version has stored or answers."""

from __future__ import annotations

import json
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

__all__ = ["Circumstances", "LedgerRow", "Result"]


class Result(BaseModel):
    """The part of a ledger row that is the promise: compared byte for byte between runs."""

    # Lenient, as all here that is read from a store or a service: fields of a newer version are passed over. What enters the control
    # plane is checked by `surefoot.told`.
    model_config = ConfigDict(frozen=True, extra="ignore", ser_json_inf_nan="strings", use_attribute_docstrings=True)

    step: Annotated[int, Field(ge=0)]
    """The number of the step, from 0."""
    first_sample: Annotated[int, Field(ge=0)]
    """The position of the step's first sample in the endless stream of epoch permutations."""
    num_samples: Annotated[int, Field(ge=0)]
    """How many samples the step has: the positions from `first_sample` on."""
    digest: str
    """A 128-bit hash, in hex, over the chunk digests of every round of the step, in order."""
    values: dict[str, float] = Field(default_factory=dict)
    """The merged logged scalars by name, the same on every trainer. What is no finite number is a text: "NaN", "Infinity"."""

    def canonical(self) -> bytes:
        """The bytes that two runs are compared by: sorted compact JSON, floats by shortest exact repr."""
        return json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":")).encode()


# Versions before this one stored what was not a number as null.
_Number = Annotated[float, BeforeValidator(lambda value: 0.0 if value is None else value)]


class Circumstances(BaseModel):
    """The part of a ledger row that may differ: who computed it and how long it took."""

    model_config = ConfigDict(frozen=True, extra="ignore", use_attribute_docstrings=True)

    generation: int
    """The generation in which the step was committed."""
    trainers: int
    """How many trainers that generation had."""
    seconds: _Number
    """Seconds from the step before to this one's commit, on the trainer that told."""
    at: _Number = 0.0
    """The unix time of the commit, in seconds; 0 where it was not told."""
    epoch_samples: Annotated[int, Field(ge=0, exclude_if=lambda n: not n)] = 0
    """How many samples an epoch has: told with every hundredth step, once it is known, and where the data has epochs."""
    nondeterministic: tuple[str, ...] = Field(default=(), exclude_if=lambda names: not names)
    """What was computed without a deterministic form, on purpose. It is told only where there is some."""


class LedgerRow(BaseModel):
    """A step's record. Keyed by the step: a row told twice is the same row (R10)."""

    model_config = ConfigDict(frozen=True, extra="ignore", use_attribute_docstrings=True)

    result: Result
    """What is compared byte for byte between runs."""
    circumstances: Circumstances
    """What may differ between runs."""
    unreadable: str = Field(default="", exclude_if=lambda text: not text)
    """What is wrong with the stored row that this one stands for; it has no result then. It is told only where there is something."""
