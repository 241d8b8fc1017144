"""The supervisor, the launcher, or the way to the control plane dies: training goes on, and nothing told is lost."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from surefoot.events import EventKind

from ..actors.test_logs import printed
from ..ray_head import Head, ray_head
from .relay import Relay
from .world import LIVENESS_S, STEPS, Gates, alive, attempt, computed, titled, until, upload_package

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.filterwarnings("default")]


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    with ray_head(num_cpus=3) as head:
        upload_package(head)
        yield head


def test_training_goes_on_without_a_supervisor(head: Head, undisturbed: list[bytes], tmp_path: Path) -> None:
    """What trainers print is told too, each line once and in order, although who relays it is killed."""
    gates = Gates(tmp_path, 3, 7)
    with attempt(head, "sup-1", trainers=2, config={"gates": gates.config, "prints": 1}) as run:
        run.launch()
        run.control.wait_for_step(2, LIVENESS_S)
        first, trainers = run.supervisor(), run.trainers()
        [told] = run.control.of(EventKind.GENERATION)
        os.kill(first, signal.SIGKILL)
        until(lambda: not alive(first))
        gates.open(3)
        second = until(lambda: [e for e in run.control.of(EventKind.GENERATION) if e.source != told.source])
        gates.open(7)
        run.succeed()
        meanwhile = [run.control.ledger[step].circumstances for step in range(3, 7)]
        assert all(c.at < second[0].at.timestamp() for c in meanwhile)
        assert {c.generation for c in meanwhile} == {1}
        assert run.trainers() == trainers, "a trainer was restarted"
        assert run.lost() == []
        run.assert_ledger(undisturbed)
    said = printed(run.control.logs)
    assert {"t0", "t1", "supervisor", "launcher"} <= set(said)
    for trainer in ("t0", "t1"):
        lines = [line for line in said[trainer] if line.text.startswith("line ")]
        assert [(line.step, line.text) for line in lines] == [(n, f"line {n}") for n in range(STEPS)]
        assert said[trainer][-1].text == "the process has ended"


def test_a_launcher_that_dies_with_the_claim_is_told_of(head: Head) -> None:
    with attempt(head, "launch-1") as run:
        launcher = run.start_launcher()
        run.control.on_claim = launcher.kill
        launcher.communicate(timeout=LIVENESS_S)
        assert launcher.returncode == -signal.SIGKILL
        assert run.control.claims == 1
        assert run.supervisors() == []
        with run.start_launcher() as again:
            _, said = again.communicate(timeout=LIVENESS_S)
        assert again.returncode == 1
        assert "the launch that used it failed" in said


def test_a_launcher_that_dies_behind_its_supervisor_is_not_missed(head: Head, undisturbed: list[bytes]) -> None:
    with attempt(head, "launch-2") as run:
        launcher = run.start_launcher()
        until(run.supervisors)
        launcher.kill()
        launcher.communicate(timeout=LIVENESS_S)
        assert launcher.returncode == -signal.SIGKILL
        run.succeed()
        run.assert_ledger(undisturbed)


def test_nothing_is_lost_while_the_control_plane_is_away(head: Head, undisturbed: list[bytes], tmp_path: Path) -> None:
    """Away before a trainer is killed, until after the supervisor that saw it was killed too."""
    gates, done = Gates(tmp_path, 3, 7), tmp_path / "computed"
    config = {"gates": gates.config, "computed": str(done)}
    with attempt(head, "away-1", trainers=2, config=config) as run, Relay(run.control.url) as relay:
        run.control.url = relay.url
        run.launch()
        run.control.wait_for_step(2, LIVENESS_S)
        first, trainers = run.supervisor(), run.trainers()
        relay.kill()
        gates.open(3)
        os.kill(trainers["t0"], signal.SIGKILL)
        until(lambda: set(titled("TrainerActor", [head])) - set(trainers.values()))
        os.kill(first, signal.SIGKILL)
        until(lambda: set(run.supervisors()) - {first})
        until(lambda: any(step == "7" for step, *_ in computed(done)))  # which is held there
        assert sorted(run.control.ledger) == [0, 1, 2], "it was told by another way"
        relay.start()
        gates.open(7)
        run.succeed()
        [lost] = run.lost()
        assert lost.data["trainer"] == "t0"
        assert lost.source == run.control.of(EventKind.TRAINER_STARTED)[0].source, "told by the supervisor that died"
        run.assert_ledger(undisturbed)
