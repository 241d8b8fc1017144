"""How a trainer's end is told, where a signal of its own making was behind it."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
from ray.exceptions import RayError, RuntimeEnvSetupError

from surefoot.events import EventKind
from surefoot.spec import JobState
from surefoot_actors.cluster.ports import SetupFailedError, TrainerGoneError
from surefoot_actors.cluster.ray.cluster import gone
from surefoot_actors.liveness.server import Condition, LivenessServer
from surefoot_actors.liveness.watchdog import crash
from surefoot_actors.protocol.death_cause import DeathCause
from surefoot_actors.protocol.membership.machine import Event, Suspected, SuspicionCleared
from surefoot_actors.supervisor.death_reasons import explained
from surefoot_actors.supervisor.deaths import Deaths
from surefoot_actors.tasks import Tasks

from .harness import Stage

SAID = """Fatal Python error: Bus error

Current thread 0x00007f1 (most recent call first):
  File "/usr/lib/python3.11/site-packages/numpy/core/memmap.py", line 335 in __getitem__
  File "/tmp/code/train.py", line 12 in __getitem__
  File "/tmp/code/train.py", line 30 in train

Extension modules: numpy (total: 1)
"""


@pytest.mark.parametrize(
    ("said", "word"),
    [
        (SAID, "SIGBUS@train.py:12"),
        (SAID.replace("Bus error", "Segmentation fault"), "SIGSEGV@train.py:12"),
        (
            "Fatal Python error: Bus error\n\nCurrent thread 0x1 (most recent call first):\n  <no Python frame>\n",
            "SIGBUS",
        ),
        ("", ""),
        ("Fatal Python error: Aborted", "SIGABRT"),
        ("something else", ""),
    ],
)
def test_what_faulthandler_says_in_a_word(said: str, word: str) -> None:
    assert crash(said) == word


@pytest.mark.parametrize(
    ("said", "cause"),
    [
        ("The actor died because its node has died. Node Id: 7", DeathCause.NODE),
        ("The actor died.\n\tThe node was preempted", DeathCause.NODE),
        ("Task was killed due to the node running low on memory.", DeathCause.OUT_OF_MEMORY),
        ("The actor died because of an error raised in its creation task", DeathCause.SETUP),
        ("The actor died unexpectedly.\nWorker exit detail: SIGKILL", DeathCause.PROCESS),
    ],
)
def test_what_ray_says_of_a_death_is_read_where_it_enters(said: str, cause: DeathCause) -> None:
    error = pickle.loads(pickle.dumps(gone(RayError(said))))
    assert (type(error), error.cause) == (TrainerGoneError, cause)
    assert error.reason


def test_a_node_that_could_not_be_set_up_is_a_cause_of_its_own() -> None:
    error = pickle.loads(pickle.dumps(gone(RuntimeEnvSetupError("no network"))))
    assert (type(error), error.cause) == (SetupFailedError, DeathCause.SETUP)


def test_what_the_watchdog_saw_is_added_to_what_the_cluster_says_once() -> None:
    told = explained("its process died: Worker unexpectedly exits", "killed by SIGBUS, at train.py:12")
    assert told.startswith(
        "its process died: Worker unexpectedly exits; it was killed by SIGBUS, at train.py:12: a mapped file"
    )
    assert explained("killed by signal 7 (SIGBUS)", "killed by SIGBUS, at a.py:1").startswith(
        "killed by signal 7 (SIGBUS), at a.py:1: "
    )
    assert explained("killed by signal 9 (SIGKILL)", "") == "killed by signal 9 (SIGKILL)"
    assert explained(told, "killed by SIGBUS, at train.py:12") == told


def test_a_stop_that_is_over_does_not_date_a_later_loss() -> None:
    told: list[Event] = []
    deaths = Deaths(LivenessServer("a1"), told.append, Tasks("deaths"), ())
    deaths.liveness_changed("t1", Condition.STOPPED, "process state T")
    deaths.liveness_changed("t1", Condition.RUNNING, "")
    assert deaths.unhealthy_since("t1") is None
    deaths.liveness_changed("t1", Condition.SILENT, "")
    assert deaths.unhealthy_since("t1") is not None
    assert [type(event) for event in told] == [Suspected, SuspicionCleared, Suspected]


def test_a_mapped_file_that_is_truncated_is_told_with_signal_and_advice(stage: Stage, tmp_path: Path) -> None:
    config = {"path": str(tmp_path / "rows"), "mark": str(tmp_path / "mark")}
    story = stage.run(trainers=2, min_trainers=2, entrypoint="mapping:train", config=config)
    assert story.outcome.state is JobState.SUCCEEDED, story.outcome
    reason = str(story.of(EventKind.TRAINER_LOST)[0].data["reason"])
    assert "killed by signal 7 (SIGBUS), at mapping.py:27: " in reason
    assert "run.once" in reason
