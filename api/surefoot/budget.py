"""What a job may cost: when it is spent, the job is paused, never ended."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

__all__ = ["Budget"]


class Budget(BaseModel):
    """How much a job may spend. A job that has spent it is paused, with a checkpoint; a higher budget lets it go on."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    max_cost: Annotated[float, Field(gt=0, le=1e12, allow_inf_nan=False)] | None = None
    """The most that its trainers may cost, in the service's currency; null: any. It needs the prices of the nodes: what has none counts
    as nothing, and `surefoot show` says how much that is."""
    max_hours: Annotated[float, Field(gt=0, le=1e6, allow_inf_nan=False)] | None = None
    """How many hours it may be on the cluster; the queue and pauses do not count. Null: any."""

    @property
    def is_set(self) -> bool:
        return self.max_cost is not None or self.max_hours is not None
