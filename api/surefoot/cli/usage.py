"""What a job has used and cost, in words; and the command that sets its budget."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

import typer

from surefoot.cli.format import duration, number
from surefoot.cli.options import MaxCost, MaxHours
from surefoot.cli.references import AsJson, JobRef, tell
from surefoot.cli.session import Session
from surefoot.cli.tables import print_table
from surefoot.errors import UserError
from surefoot.usage import Forecast, JobUsage

__all__ = ["budget", "print_forecast", "usage_rows"]


def budget(
    context: typer.Context,
    job: JobRef,
    max_cost: MaxCost = None,
    max_hours: MaxHours = None,
    none: Annotated[bool, typer.Option("--none", help="Take its budget away.")] = False,
    as_json: AsJson = False,
) -> None:
    """Give a job another budget, in place of the one it has. One that was paused as its budget was spent goes on by `resume`.

    Example: surefoot budget last --max-cost 20
    """
    if none == (max_cost is not None or max_hours is not None):
        raise UserError("give --max-cost, --max-hours or both, or --none alone")
    with Session.of(context).client() as client:
        found = client.job(job).set_budget(max_cost=max_cost, max_hours=max_hours)
        given = found.view.spec.budget
        tell(found.view, f"job {found.id}: {'; '.join(_allowed(given.max_cost, given.max_hours))}", as_json)


def _allowed(max_cost: float | None, max_hours: float | None) -> Iterator[str]:
    if max_cost is not None:
        yield f"it may cost {max_cost:g}"
    if max_hours is not None:
        yield f"it may be on the cluster for {max_hours:g} h"
    if max_cost is None and max_hours is None:
        yield "it has no budget"


def usage_rows(usage: JobUsage) -> dict[str, str]:
    """What `show` tells of it, by name; empty texts where there is nothing to tell."""
    return {
        "speed": ", ".join(_speed(usage)),
        "used": ", ".join(_used(usage)),
        "cost": ", ".join(_costs(usage)),
        "faults": ", ".join(_faults(usage)),
        "target": _target(usage),
        "budget": "; ".join([*_allowed(usage.budget.max_cost, usage.budget.max_hours), *([usage.spent] if usage.spent else [])])
        if usage.budget.is_set
        else "",
    }  # fmt: skip


def _speed(usage: JobUsage) -> Iterator[str]:
    if usage.step_s is not None:
        yield f"{duration(usage.step_s)} a step"
    if usage.samples_per_s is not None:
        yield f"{number(usage.samples_per_s)} samples/s"
    if usage.epoch_s is not None:
        yield f"{duration(usage.epoch_s)} an epoch"


def _used(usage: JobUsage) -> Iterator[str]:
    if usage.trainer_s:
        yield f"{duration(usage.trainer_s)} of trainers in {duration(usage.cluster_s)} on the cluster"


def _money(cost: float | None, usage: JobUsage) -> str:
    return "not known" if cost is None else f"{cost:.4g} {usage.currency}".rstrip()


def _costs(usage: JobUsage) -> Iterator[str]:
    if not usage.trainer_s or usage.cost is None:
        return
    yield _money(usage.cost, usage)
    if usage.unpriced_trainer_s > 0:
        yield f"without {duration(usage.unpriced_trainer_s)} of trainers that have no price"
    if len(usage.kinds) > 1:
        for kind in usage.kinds:
            name = f"{kind.group or '?'}{f' ({kind.market})' if kind.market else ''}"
            yield f"{name}: {_money(kind.cost, usage)} for {duration(kind.trainer_s)}"


def _faults(usage: JobUsage) -> Iterator[str]:
    if usage.recoveries:
        yield f"{usage.recoveries}, which cost at most {duration(usage.lost_s)}"
        yield f"{duration(usage.lost_trainer_s)} of trainers"
        if usage.lost_cost is not None:
            yield _money(usage.lost_cost, usage)
    if usage.again_steps:
        cost = "" if usage.again_cost is None else f", {_money(usage.again_cost, usage)}"
        more = (
            f": at most {duration(usage.again_s)}, {duration(usage.again_trainer_s)} of trainers{cost} more"
            if usage.again_s
            else ""
        )
        yield f"{usage.again_steps} step{'' if usage.again_steps == 1 else 's'} made again{more}"


def _target(usage: JobUsage) -> str:
    if usage.target is None:
        return ""
    if usage.steps_to_target is None:
        return f"{usage.target}, not met"
    cost = f", for {_money(usage.cost_to_target, usage)}" if usage.cost_to_target is not None else ""
    after = f" and {duration(usage.s_to_target)}" if usage.s_to_target is not None else ""
    return f"{usage.target}, met after {usage.steps_to_target} steps{after}{cost}"


def print_forecast(usage: JobUsage) -> None:
    """Print what the rest takes with each number of trainers."""
    rows = [
        (str(each.trainers), *_cells(each, usage), "measured" if each.measured else "not measured")
        for each in usage.forecast
    ]
    print_table((*_RIGHT, ""), rows, right=_RIGHT)


_RIGHT = ("TRAINERS", "A STEP", "THE REST", "COST")


def _cells(each: Forecast, usage: JobUsage) -> list[str]:
    ends = (
        (each.step_s, each.step_s_low, each.step_s_high),
        (each.remaining_s, each.remaining_s_low, each.remaining_s_high),
    )
    cost = _between(each.cost, each.cost_low, each.cost_high, lambda value: _money(value, usage))
    return [*(_between(*end, duration) for end in ends), cost]


def _between(mean: float | None, low: float | None, high: float | None, say_it: object) -> str:
    assert callable(say_it)
    if mean is not None:
        return str(say_it(mean))
    return "" if low is None or high is None else f"{say_it(low)} to {say_it(high)}"
