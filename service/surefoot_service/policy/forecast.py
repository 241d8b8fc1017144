"""What the rest of a job takes with each number of trainers, by what the job itself has shown. Pure.

A number of trainers that was measured has the mean of its steps, and the range of their parts. One that was not has a range alone: from
perfect scaling, where the trainer with most sub-tasks decides, to no scaling at all, seen from every number that was measured.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from surefoot.usage import Forecast

__all__ = ["Pace", "forecast", "pace_of"]

# the fewest steps that say anything, and into how many parts they are divided
LEAST = 8
_PARTS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """Seconds a step, as measured: on average, of the fastest part, of the slowest."""

    mean: float
    low: float
    high: float


def pace_of(seconds: Sequence[float]) -> Pace | None:
    """What the steps, in order, say; None: too few."""
    if len(seconds) < LEAST:
        return None
    bounds = [len(seconds) * part // _PARTS for part in range(_PARTS + 1)]
    parts = [fmean(seconds[a:b]) for a, b in itertools.pairwise(bounds)]
    mean = fmean(seconds)
    return Pace(mean=mean, low=min(*parts, mean), high=max(*parts, mean))


def forecast(
    paces: Mapping[int, Pace],
    numbers: Iterable[int],
    *,
    sub_tasks: int,
    remaining_steps: int | None,
    trainer_per_s: float | None,
) -> tuple[Forecast, ...]:
    """Forecast for each number of trainers; nothing where nothing was measured. `trainer_per_s`: what a trainer costs a second."""
    if not paces:
        return ()
    return tuple(_one(paces, n, sub_tasks, remaining_steps, trainer_per_s) for n in numbers)


def _one(paces: Mapping[int, Pace], trainers: int, sub_tasks: int, steps: int | None, per_s: float | None) -> Forecast:
    own = paces.get(trainers)
    low, high = (own.low, own.high) if own else _range(paces, trainers, sub_tasks)
    mean = own.mean if own else None
    rest = [None if steps is None or each is None else each * steps for each in (mean, low, high)]
    cost = [None if per_s is None or each is None else each * per_s * trainers for each in rest]
    return Forecast(
        trainers=trainers,
        measured=own is not None,
        step_s=mean,
        step_s_low=low,
        step_s_high=high,
        remaining_s=rest[0],
        remaining_s_low=rest[1],
        remaining_s_high=rest[2],
        cost=cost[0],
        cost_low=cost[1],
        cost_high=cost[2],
    )


def _range(paces: Mapping[int, Pace], trainers: int, sub_tasks: int) -> tuple[float, float]:
    """What all measured numbers allow; where they contradict each other, all that any of them allows."""
    ranges = []
    for measured, pace in paces.items():
        perfect = -(-sub_tasks // trainers) / -(-sub_tasks // measured)
        ranges.append((pace.low * min(1.0, perfect), pace.high * max(1.0, perfect)))
    low, high = max(a for a, _ in ranges), min(b for _, b in ranges)
    return (low, high) if low <= high else (min(a for a, _ in ranges), max(b for _, b in ranges))
