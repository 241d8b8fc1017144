"""What faults cost a job: a report over what it told. Pure: events and ledger rows in, figures out."""

from __future__ import annotations

import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from surefoot.events import Event, EventKind, FaultKind, LedgerRow

__all__ = ["ChaosReport", "Recovery", "percentile", "report"]

# of a newer version others may come
_KINDS = frozenset(FaultKind)

# Steps whose commit is so soon after a fault's are disturbed by it, however well the run goes.
_DISTURBED_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Recovery:
    """One fault, and what came of it."""

    kind: FaultKind
    # unix time
    at: float
    # from the fault to the first step that a later generation committed; None: no generation ended for it
    seconds: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ChaosReport:
    """The sum of it."""

    faults: Mapping[FaultKind, int]
    recoveries: tuple[Recovery, ...]
    # steps between the first and the last row that have no row: 0, or the promise is broken
    steps_lost: int
    steps: int
    sub_tasks_again: int
    # from the first row's commit to the last one's
    seconds: float
    # the seconds that the same steps would have taken with nothing but the trainers that were alive: see `report`
    ideal_seconds: float

    @property
    def goodput(self) -> float:
        """The share of the time that was as good as undisturbed."""
        return self.ideal_seconds / self.seconds if self.seconds else 1.0

    def seconds_of(self, kind: FaultKind) -> list[float]:
        """Recoveries from this kind of fault, in seconds, in their order."""
        return [r.seconds for r in self.recoveries if r.kind is kind and r.seconds is not None]


def percentile(values: Iterable[float], share: float) -> float:
    """Return the nearest-rank percentile. Raises ValueError for no values."""
    ordered = sorted(values)
    if not ordered:
        raise ValueError("a percentile of nothing")
    rank = max(1, -(-round(share * 1e6) * len(ordered) // 1_000_000))
    return ordered[rank - 1]


def report(events: Iterable[Event], rows: Iterable[LedgerRow]) -> ChaosReport:
    """Return what the faults among these events cost the steps of these rows.

    The ideal is what the surviving trainers could have done: a step that k trainers committed counts as the median time of the
    undisturbed steps with k trainers, those not within 5 s after a fault. Where there is none it counts as what k trainers would take
    that share the work of an undisturbed step without any loss: a faulty step is never its own ideal. Time is from one row's commit
    to the next, so whatever is between two steps counts.
    """
    told, ledger = list(events), sorted(rows, key=lambda row: row.result.step)
    faults = sorted(
        (e for e in told if e.kind is EventKind.FAULT and str(e.data.get("kind")) in _KINDS), key=lambda e: e.at
    )
    times = [event.at.timestamp() for event in faults]
    ideal = _ideal(ledger, times)
    steps = [row.result.step for row in ledger]
    return ChaosReport(
        faults=Counter(FaultKind(str(event.data["kind"])) for event in faults),
        recoveries=tuple(
            Recovery(kind=FaultKind(str(event.data["kind"])), at=at, seconds=_recovered(told, ledger, at, until))
            for event, at, until in zip(faults, times, [*times, float("inf")][1:], strict=True)
        ),
        steps_lost=steps[-1] - steps[0] + 1 - len(set(steps)) if steps else 0,
        steps=len(steps),
        sub_tasks_again=sum(_int(e.data.get("sub_tasks_again")) for e in told if e.kind is EventKind.GENERATION),
        seconds=ledger[-1].circumstances.at - ledger[0].circumstances.at if ledger else 0.0,
        ideal_seconds=sum(ideal[row.circumstances.trainers] for row in ledger[1:]),
    )


def _ideal(ledger: Sequence[LedgerRow], faults: Sequence[float]) -> dict[int, float]:
    """The seconds that an undisturbed step takes, by the number of trainers."""
    calm: dict[int, list[float]] = defaultdict(list)
    every: list[tuple[int, float]] = []
    for before, row in pairwise(ledger):
        now, earlier = row.circumstances, before.circumstances
        took = now.at - earlier.at
        every.append((now.trainers, took))
        disturbed = any(fault <= now.at and earlier.at <= fault + _DISTURBED_S for fault in faults)
        if not disturbed and now.generation == earlier.generation:
            calm[now.trainers].append(took)
    medians = {trainers: statistics.median(took) for trainers, took in calm.items()}
    if not every:
        return {}
    # a trainer's seconds of work in a step: from the number that trained undisturbed for longest, or else from all steps
    most = max(calm, key=lambda trainers: len(calm[trainers]), default=None)
    work = most * medians[most] if most else statistics.median(trainers * took for trainers, took in every)
    return {trainers: medians.get(trainers, work / trainers) for trainers, _ in every}


def _recovered(events: Sequence[Event], ledger: Sequence[LedgerRow], at: float, until: float) -> float | None:
    """How long after a fault the first step of a later generation was committed, if the fault, and not the next one, ended it."""
    before = [row.circumstances.generation for row in ledger if row.circumstances.at <= at]
    ended = [
        e
        for e in events
        if e.kind is EventKind.GENERATION
        and at <= e.at.timestamp() < until
        and _int(e.data.get("generation")) > max(before, default=0)
        and e.data.get("reason") != "a planned change"
    ]
    if not ended:
        return None
    number = min(_int(e.data.get("generation")) for e in ended)
    later = [row.circumstances.at for row in ledger if row.circumstances.generation >= number]
    return min(later) - at if later else None


def _int(value: object) -> int:
    return value if isinstance(value, int) else 0
