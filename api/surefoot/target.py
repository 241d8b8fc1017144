"""What ends a job before its last step: a merged value that is good enough. Pure.

Merged values are the same on every trainer, however many there are, so the same step meets it anywhere.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["Target", "parse_target"]

_TARGET = re.compile(
    r"\s*(?P<name>[^\s<>=!]{1,200})\s*(?P<sign>>=|<=|>|<)\s*(?P<bound>[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d{1,3})?)\s*",
    re.ASCII,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A logged value's name, and what it is to come to."""

    name: str
    # one of ">=", "<=", ">", "<"
    sign: str
    bound: float

    def __str__(self) -> str:
        return f"{self.name}{self.sign}{self.bound!r}"

    def met(self, values: Mapping[str, float]) -> bool:
        """Whether a step's values meet it: not where the value is missing, or is no number."""
        value = values.get(self.name, math.nan)
        match self.sign:
            case ">=":
                return value >= self.bound
            case "<=":
                return value <= self.bound
            case ">":
                return value > self.bound
            case _:
                return value < self.bound


def parse_target(text: str) -> Target:
    """Read a target such as "accuracy>=0.97". Raises ValueError for anything else."""
    found = _TARGET.fullmatch(text)
    bound = float(found["bound"]) if found else math.nan
    if found is None or not math.isfinite(bound):
        raise ValueError(
            f'target {text!r} must be the name of a logged value, one of >= <= > <, and a number, such as "accuracy>=0.97"'
        )
    return Target(name=found["name"], sign=found["sign"], bound=bound)
