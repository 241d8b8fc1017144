"""Ledger rows on their way through the supervisor: each is passed on once, in memory that no gap makes grow."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from surefoot_actors.supervisor.ledger_intake import LedgerIntake
from surefoot_actors.uplink.memory import MemoryUplink
from surefoot_actors.uplink.step_runs import StepRuns

from .uplink_plane import row

Step = st.integers(0, 30)


@given(st.lists(st.tuples(st.sampled_from(["add", "drop below"]), Step), max_size=60), Step)
def test_runs_are_a_set_of_steps(acts: list[tuple[str, int]], asked: int) -> None:
    runs, steps = StepRuns(), set[int]()
    for what, step in acts:
        if what == "add":
            runs.add(step)
            steps.add(step)
        else:
            runs.drop_below(step)
            steps = {s for s in steps if s >= step or set(range(s, step + 1)) <= steps}
    assert {step for step in range(32) if step in runs} == steps
    assert len(runs) == sum(step + 1 not in steps for step in steps)
    assert runs.next_absent(asked) == next(step for step in range(asked, 40) if step not in steps)


class _Passed(MemoryUplink):
    def rows(self, rows: object) -> None:
        self.passed = [*getattr(self, "passed", []), *(r.result.step for r in rows)]  # type: ignore[attr-defined]


def test_a_gap_that_stays_open_costs_nothing_a_row() -> None:
    """A supervisor that was restarted, while the control plane is away: what came before it is not known to be stored."""
    uplink = _Passed()
    intake = LedgerIntake(uplink)
    for first in range(5_000, 25_000, 100):
        rows = tuple(map(row, range(first - 100, first + 100)))
        intake.take(rows)
    assert uplink.passed == list(range(4_900, 25_000))
    assert len(intake._seen) == 1
    uplink.rows_below = 10_000
    intake.take((row(25_000),))
    assert uplink.passed[-1] == 25_000
    assert len(intake._seen) == 0
