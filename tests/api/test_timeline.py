"""What went wrong, and what it cost, from hand-made events."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
from tests.api.conftest import make_event

from surefoot.chaos import report
from surefoot.cli.chaos import ChaosRun, chaos_pairs, parse_kinds
from surefoot.cli.format import size
from surefoot.errors import ServiceUnavailableError, UserError
from surefoot.events import SUPERVISOR_RESTARTED, Event, EventKind, FaultKind
from surefoot.timeline import troubles


def test_losses_recovered_from_together_share_one_cost() -> None:
    found = troubles(
        [
            make_event(1, EventKind.TRAINER_LOST, trainer="t1"),
            make_event(2, EventKind.TRAINER_LOST, trainer="t2"),
            make_event(3, EventKind.RECOVERED, seconds=0.25),
            make_event(4, EventKind.TRAINER_LOST, trainer="t3"),
        ]
    )
    assert [(t.event.data["trainer"], t.seconds) for t in found] == [("t1", 0.25), ("t2", None), ("t3", None)]


def test_an_injected_fault_and_its_loss_are_one_thing_and_cost_what_it_took() -> None:
    found = troubles(
        [
            make_event(1, EventKind.FAULT, kind="freeze", trainer="t1"),
            make_event(2, EventKind.TRAINER_LOST, trainer="t1", reason="fenced"),
            make_event(3, EventKind.RECOVERED, seconds=0.5),
            make_event(4, EventKind.TRAINER_LOST, trainer="t1", reason="by itself, though of the same name"),
        ]
    )
    assert [(t.event.kind, t.seconds) for t in found] == [(EventKind.FAULT, 0.5), (EventKind.TRAINER_LOST, None)]


def test_what_is_no_loss_is_told_of_beside_a_fault() -> None:
    found = troubles(
        [
            make_event(1, EventKind.FAULT, kind="supervisor", trainer=""),
            make_event(2, EventKind.CHECKPOINT_FAILED, step=3, reason="no space left"),
        ]
    )
    assert [t.event.kind for t in found] == [EventKind.FAULT, EventKind.CHECKPOINT_FAILED]


def test_a_supervisor_that_died_is_told_of_once() -> None:
    restarted = {"generation": 2, "trainers": ["t0"], "reason": SUPERVISOR_RESTARTED}
    found = troubles(
        [
            make_event(1, EventKind.GENERATION, **restarted),
            make_event(2, EventKind.FAULT, kind="supervisor", trainer=""),
            make_event(3, EventKind.GENERATION, **restarted),
            make_event(4, EventKind.GENERATION, generation=4, trainers=["t0"], reason="a planned change"),
        ]
    )
    assert [t.event.kind for t in found] == [EventKind.GENERATION, EventKind.FAULT]


def test_a_lost_attempt_costs_until_the_next_one_runs() -> None:
    found = troubles(
        [
            make_event(1, EventKind.STATE, state="queued", reason=""),
            make_event(2, EventKind.STATE, state="running", reason=""),
            make_event(10, EventKind.STATE, state="queued", reason="the cluster is gone; it is tried again at once"),
            make_event(17, EventKind.STATE, state="running", reason="restored"),
        ]
    )
    assert [trouble.seconds for trouble in found] == [7.0]


def test_a_checkpoint_that_failed_held_nothing_up() -> None:
    [trouble] = troubles([make_event(1, EventKind.CHECKPOINT_FAILED, step=3, reason="no space left")])
    assert trouble.seconds is None


def test_kinds_are_read() -> None:
    assert parse_kinds("trainer, node") == (FaultKind.TRAINER, FaultKind.NODE)
    with pytest.raises(UserError, match="supervisor"):
        parse_kinds("trainer,gremlin")


class Stubborn:
    """A job of which nothing is heard, whose control plane takes every second fault."""

    def __init__(self) -> None:
        self.asked, self.taken = 0, threading.Event()

    def inject_fault(self, kind: FaultKind, *, leave: int) -> None:
        assert leave == 2
        self.asked += 1
        if self.asked % 2:
            raise ServiceUnavailableError("the control plane is away", status=503)
        self.taken.set()

    def follow(self, timeout: float) -> Iterator[Event]:
        assert timeout == 7.0
        assert self.taken.wait(60), "the first refusal was the end of it"
        raise TimeoutError
        yield


def test_chaos_goes_on_after_a_refusal_and_ends_when_nothing_is_heard() -> None:
    job = Stubborn()
    run = ChaosRun(None, job, (FaultKind.TRAINER,), per_minute=60_000, seconds=7.0, leave=2)  # type: ignore[arg-type]
    told = run.run()
    assert (told.steps, dict(told.faults)) == (0, {})
    assert run.refused[0] == "the control plane is away"


def test_faults_that_nothing_recovered_from_are_told_without_times() -> None:
    fault = make_event(1, EventKind.FAULT, kind="trainer", target="t1")
    assert chaos_pairs(report([fault], []))["trainer faults"] == "1, none recovered from in this time"


def test_sizes() -> None:
    assert [size(n) for n in (0, 999, 1500, 2_500_000, 3_000_000_000)] == ["0 B", "999 B", "1.5 kB", "2.5 MB", "3 GB"]
