"""Logged values in a line that is not wider than its place, and as they were logged last."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from rich.cells import cell_len, set_cell_size

from surefoot.cli.format import number
from surefoot.client import Job
from surefoot.events import LedgerRow
from surefoot.printable import printable_line

__all__ = ["GAP", "Last", "last_values", "loss_first", "read_last", "values_in", "words"]

GAP = "  "
_LONGEST_NAME = 40
# what `show` reads of a ledger, and tells of what it finds
_STEPS, _VALUES = 1000, 30


@dataclass(frozen=True, slots=True)
class Last:
    """A value as it was logged last."""

    value: float
    step: int

    def document(self) -> dict[str, object]:
        """As JSON, which has no word for what is no finite number."""
        return {"value": self.value if math.isfinite(self.value) else str(self.value), "step": self.step}


def last_values(rows: Iterable[LedgerRow]) -> dict[str, Last]:
    """Return each value that these rows log, as the last of them has it, in the order in which they came up."""
    found: dict[str, Last] = {}
    for row in rows:
        for name, value in row.result.values.items():
            found[name] = Last(value, row.result.step)
    return found


def read_last(job: Job) -> dict[str, Last]:
    """Read the values that the job's newest steps log: `surefoot metrics` reads them all."""
    return last_values(job.iter_ledger(from_step=max(0, job.view.steps_done - _STEPS)))


def words(values: Mapping[str, Last], steps_done: int) -> str:
    """Tell values, each with its step where that is not the last."""
    told = []
    for name in loss_first(values)[:_VALUES]:
        at = "" if values[name].step == steps_done - 1 else f" (step {values[name].step})"
        told.append(f"{_short(name)} {number(values[name].value)}{at}")
    more = [f"and {len(values) - _VALUES} more: see `surefoot metrics`"] if len(values) > _VALUES else []
    return ", ".join(told + more)


def loss_first(names: Iterable[str]) -> list[str]:
    """The order in which values are told where nobody has chosen."""
    return sorted(names, key=lambda name: name != "loss")


def values_in(values: Mapping[str, float], width: int | None) -> str:
    """Tell values in no more columns than `width`, and how many more there are; the first in any case. None: all."""
    told = [f"{_short(name)} {number(value)}" for name, value in values.items()]
    if not told or width is None or cell_len(GAP.join(told)) <= width:
        return GAP.join(told)
    for kept in range(len(told) - 1, 1, -1):
        text = GAP.join([*told[:kept], f"+{len(told) - kept}"])
        if cell_len(text) <= width:
            return text
    first, more = told[0], f"{GAP}+{len(told) - 1}"
    return first + more if len(told) > 1 and cell_len(first + more) <= width else first


def _short(name: str) -> str:
    name = printable_line(name)
    return name if cell_len(name) <= _LONGEST_NAME else set_cell_size(name, _LONGEST_NAME - 1).rstrip() + "…"
