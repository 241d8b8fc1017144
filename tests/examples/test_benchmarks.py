"""The benchmarks measure what they say: who killed whom when, ratios within a round, bytes of a run's own."""

from __future__ import annotations

import importlib
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from surefoot.events import Circumstances, Event, EventKind, LedgerRow, Result

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
MODULES = ("measure", "workloads", "jobs", "elastic", "kills", "peers", "plain", "steady_state", "recovery", "demo")


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ModuleType]:
    """Import a script of benchmarks/ as it imports its neighbours, forgotten after the test."""
    monkeypatch.setattr(sys, "path", [str(BENCHMARKS), *sys.path])
    for name in MODULES:
        monkeypatch.delitem(sys.modules, name, raising=False)
    return importlib.import_module


@pytest.fixture
def bystander() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]) as process:
        yield process
        process.kill()


def row(step: int, generation: int, at: float) -> LedgerRow:
    result = Result(step=step, first_sample=step, num_samples=1, digest="0" * 32)
    return LedgerRow(result=result, circumstances=Circumstances(generation=generation, trainers=2, seconds=0.1, at=at))


def event(kind: EventKind, **data: Any) -> Event:
    return Event(source="s", n=1, at=datetime.now(UTC), kind=kind, data=data)


def test_a_killer_kills_a_member_and_times_the_first_step_without_it(
    load: Any, bystander: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    kills = load("kills")
    told = kills.History()
    killer = kills.Killer(told, 1, tmp_path)
    for trainer, pid in (("t0", bystander.pid), ("t1", 99)):
        told.take(event(EventKind.TRAINER_READY, trainer=trainer, pid=pid, node="n"))
    told.take(event(EventKind.GENERATION, generation=1, trainers=["t0", "t1"], sub_tasks_again=0))
    for step in range(kills.CALM_STEPS - 1):
        told.take(row(step, 1, at=0.0))
    assert killer.look() is False
    assert bystander.poll() is None, "killed before the two had made enough steps"
    told.take(row(kills.CALM_STEPS - 1, 1, at=0.0))
    assert killer.look() is False
    assert bystander.wait(30) == -9
    killed_at = killer._victim.killed_at
    # one more step that both had in flight: not the recovery
    told.take(row(kills.CALM_STEPS, 1, at=killed_at + 0.01))
    assert killer.look() is False
    (tmp_path / "99.txt").write_text(
        f"{killed_at - 1!r} {killed_at + 0.05!r}\n{killed_at + 0.1!r} {killed_at + 0.3!r}\n"
    )
    told.take(event(EventKind.GENERATION, generation=2, trainers=["t1"], sub_tasks_again=3))
    told.take(row(kills.CALM_STEPS + 1, 2, at=killed_at + 0.2))
    assert killer.look() is True
    (recovery,) = killer.recoveries
    assert recovery.kill_to_step_s == pytest.approx(0.2)
    assert recovery.in_user_code_s == pytest.approx(0.05 + 0.1)
    assert recovery.sub_tasks_again == 3
    assert recovery.was_first


def test_ratios_are_within_a_round(load: Any) -> None:
    steady_state, measure = load("steady_state"), load("measure")

    def took(seconds: float) -> Any:
        return measure.Figures(step_ends=[0.0, seconds], peak_bytes=[2**20])

    # the machine was half as fast in the second round, for both alike
    rows = steady_state.speed_rows({"DDP": [took(1.0), took(2.0)], "ours": [took(1.25), took(2.5)]})
    assert [cells[2] for cells in rows] == ["1.000 (1.000 to 1.000)", "0.800 (0.800 to 0.800)"]


def test_a_peer_that_hung_is_counted(load: Any) -> None:
    told = [{"kill_to_new_step_s": 5.0, "steps_redone": 11}, None]
    assert load("recovery").theirs("torchrun", told, 200.0)[1:4] == ["1 of 2", "5000 (5000 to 5000)", "25.0x"]
    assert load("recovery").theirs("torchrun", [None], 200.0)[1:3] == ["0 of 1", "none ended"]


def test_missing_peers_are_named(load: Any, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="--no-peers"), load("peers").find(str(tmp_path), None):
        pass


def test_a_failed_side_shows_its_last_words(load: Any) -> None:
    with pytest.raises(RuntimeError, match="invalid choice: 'nothing'"):
        load("measure").run_child("plain.py", "nothing", 1, 1)


@pytest.mark.slow
def test_two_trainers_send_what_a_ring_all_reduce_would(load: Any) -> None:
    steady_state, workloads = load("steady_state"), load("workloads")
    gradients = 4 * sum(parameter.numel() for parameter in workloads.WORKLOADS["digits"].model().parameters())
    # a ring's 2 (n-1)/n at 2 trainers is 1; TCP's headers are counted, the ring's arithmetic has none
    assert 0.95 < steady_state.bytes_a_step(steady_state.surefoot(2, 8), "digits") / 2 / gradients < 1.1


@pytest.mark.slow
def test_the_measured_run_is_a_run(load: Any) -> None:
    started = time.time()
    figures = load("measure").run_child("elastic.py", "digits", 2, 2, 110)
    assert len(figures.step_ends) == 11
    assert started < figures.step_ends[0] <= figures.step_ends[-1]
    assert len(figures.peak_bytes) == 2
    assert min(figures.peak_bytes) > 100 * 2**20
