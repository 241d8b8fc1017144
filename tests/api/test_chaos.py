"""The report of a run with faults, over hand-made stories."""

from __future__ import annotations

from datetime import datetime, timezone

import pytest

from surefoot.chaos import percentile, report
from surefoot.events import Circumstances, Event, EventKind, FaultKind, LedgerRow, Result


def row(step: int, at: float, *, trainers: int = 2, generation: int = 1) -> LedgerRow:
    result = Result(step=step, first_sample=step * 8, num_samples=8, digest="0" * 32)
    circumstances = Circumstances(generation=generation, trainers=trainers, seconds=0.1, at=at)
    return LedgerRow(result=result, circumstances=circumstances)


def event(n: int, at: float, kind: EventKind, /, **data: object) -> Event:
    return Event(source="s", n=n, at=datetime.fromtimestamp(at, timezone.utc), kind=kind, data=data)


def test_a_quiet_run_is_all_good() -> None:
    told = report([], [row(step, 100 + step) for step in range(10)])
    assert (told.steps, told.steps_lost, told.sub_tasks_again, told.seconds) == (10, 0, 0, 9.0)
    assert told.goodput == 1.0
    assert not told.faults


def test_a_loss_costs_its_recovery_and_fewer_trainers_are_no_fault_of_it() -> None:
    """Two trainers make a step a second; one alone makes one in 2 s; the loss itself costs 3 s more."""
    rows = [row(step, 100.0 + step) for step in range(10)]
    rows += [row(10 + k, 114.0 + 2 * k, trainers=1, generation=2) for k in range(20)]
    events = [
        event(1, 109.5, EventKind.FAULT, kind="trainer", trainer="t1", node=""),
        event(2, 110.0, EventKind.GENERATION, generation=2, reason="t1 was lost", sub_tasks_again=3),
    ]
    told = report(events, rows)
    assert told.faults == {FaultKind.TRAINER: 1}
    assert told.seconds_of(FaultKind.TRAINER) == [4.5]
    assert told.sub_tasks_again == 3
    assert told.ideal_seconds == 9 + 40
    assert told.seconds == 52.0
    assert told.goodput == pytest.approx(49 / 52)


def test_a_disturbed_step_is_not_its_own_ideal() -> None:
    """Four trainers make a step a second; one is lost, the step takes 3 s on three of them, and a spare is there for the next."""
    rows = [row(step, 100.0 + step, trainers=4) for step in range(10)]
    rows += [row(10, 112.0, trainers=3, generation=2)]
    rows += [row(11 + k, 113.0 + k, trainers=4, generation=3) for k in range(10)]
    told = report([event(1, 109.5, EventKind.FAULT, kind="trainer", trainer="t1", node="")], rows)
    assert told.ideal_seconds == pytest.approx(9 + 4 / 3 + 10)
    assert told.seconds == 22.0


def test_where_nothing_was_calm_the_work_is_shared() -> None:
    rows = [row(0, 100.0), row(1, 101.0), row(2, 102.0), row(3, 106.0, trainers=1, generation=2)]
    told = report([event(1, 100.5, EventKind.FAULT, kind="trainer", trainer="t1", node="")], rows)
    assert told.ideal_seconds == 1 + 1 + 2


def test_a_missing_step_is_seen() -> None:
    assert report([], [row(0, 1.0), row(1, 2.0), row(3, 4.0)]).steps_lost == 1


def test_a_fault_that_ends_no_generation_has_no_recovery() -> None:
    events = [event(1, 1.5, EventKind.FAULT, kind="supervisor", trainer="", node="")]
    [recovery] = report(events, [row(step, float(step)) for step in range(9)]).recoveries
    assert recovery.seconds is None


@pytest.mark.parametrize(("share", "value"), [(0.5, 2), (0.99, 4), (1.0, 4), (0.25, 1), (0.0, 1)])
def test_percentiles_are_values_that_occurred(share: float, value: float) -> None:
    assert percentile([4, 1, 3, 2], share) == value
