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
    model_config = ConfigDict(frozen=True, extra="ignore", ser_json_inf_nan="strings")

    step: Annotated[int, Field(ge=0)]
    # positions [first_sample, first_sample + num_samples) of the endless stream of epoch permutations
    first_sample: Annotated[int, Field(ge=0)]
    num_samples: Annotated[int, Field(ge=0)]
    # 128-bit hash over the chunk digests of every round of the step, in order
    digest: str
    # merged logged scalars by name, the same on every trainer
    values: dict[str, float] = Field(default_factory=dict)

    def canonical(self) -> bytes:
        """The bytes that two runs are compared by: sorted compact JSON, floats by shortest exact repr."""
        return json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":")).encode()


# Versions before this one stored what was not a number as null.
_Number = Annotated[float, BeforeValidator(lambda value: 0.0 if value is None else value)]


class Circumstances(BaseModel):
    """The part of a ledger row that may differ: who computed it and how long it took."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    generation: int
    trainers: int
    # from the step before to this one's commit, on the trainer that told
    seconds: _Number
    # unix time of the commit
    at: _Number = 0.0
    # what was computed without a deterministic form, on purpose; told only where there is some, as older readers do not know it
    nondeterministic: tuple[str, ...] = Field(default=(), exclude_if=lambda names: not names)


class LedgerRow(BaseModel):
    """A step's record. Keyed by the step: a row told twice is the same row (R10)."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    result: Result
    circumstances: Circumstances
    # what is wrong with the stored row that this one stands for; it has no result then
    unreadable: str = Field(default="", exclude_if=lambda text: not text)
