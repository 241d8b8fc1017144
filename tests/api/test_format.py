"""How things are said, and what a watched job comes to."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from tests.api.conftest import BEGIN, make_event, make_row, make_view

from surefoot.cli.format import ago, describe, duration
from surefoot.cli.progress import Pace, Progress, line, told
from surefoot.events import EventKind
from surefoot.spec import JobState


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0, "0 ms"),
        (0.1844, "184 ms"),
        (1, "1.0 s"),
        (59.94, "59.9 s"),
        (59.96, "1 min 0 s"),
        (200, "3 min 20 s"),
        (3599.9, "1 h 0 min"),
        (18180, "5 h 3 min"),
        (187200, "2 d 4 h"),
    ],
)
def test_durations(seconds: float, said: str) -> None:
    assert duration(seconds) == said


def test_ago() -> None:
    assert ago(BEGIN, BEGIN + timedelta(seconds=0.2)) == "1 s ago"
    assert ago(BEGIN, BEGIN + timedelta(minutes=61)) == "1 h 1 min ago"
    assert ago(None, BEGIN) == ""


@pytest.mark.parametrize(
    ("kind", "data", "said"),
    [
        (EventKind.STATE, {"state": "queued", "reason": "3 CPUs wanted, 2 there"}, "queued: 3 CPUs wanted, 2 there"),
        (
            EventKind.INSTALLING,
            {"trainer": "t1", "requirements": ["einops", "timm==1.0"]},
            "installing requirements for trainer t1: einops, timm==1.0",
        ),
        (EventKind.TRAINER_STARTED, {"trainer": "t1"}, "trainer t1 is starting"),
        (EventKind.TRAINER_READY, {"trainer": "t1", "pid": 7, "node": "n"}, "trainer t1 is ready (pid 7, node n)"),
        (
            EventKind.TRAINER_LOST,
            {"trainer": "t1", "reason": "killed by signal 9", "step": 57},
            "lost trainer t1 at step 57: killed by signal 9",
        ),
        (EventKind.TRAINER_LOST, {"trainer": "t1", "reason": "silent"}, "lost trainer t1: silent"),
        (EventKind.GENERATION, {"generation": 3, "trainers": 2, "round": 9}, "generation 3: 2 trainers from round 9"),
        (EventKind.TRAINER_REFUSED, {"trainer": "t1", "reason": "another torch"}, "refused trainer t1: another torch"),
        (EventKind.TRAINER_LEFT, {"trainer": "t1", "step": 3}, "trainer t1 left at step 3, as planned"),
        (
            EventKind.GENERATION,
            {
                "generation": 2,
                "trainers": ["t0", "t2"],
                "step": 57,
                "reason": "lost t1",
                "joined": [],
                "lost": ["t1"],
                "left": [],
            },
            "generation 2: 2 trainers from step 57 (lost t1): lost t1",
        ),
        (EventKind.GENERATION, {"generation": 1, "trainers": 1, "step": 0}, "generation 1: 1 trainer from step 0"),
        (
            EventKind.RECOVERED,
            {"generation": 2, "step": 57, "seconds": 0.1842, "sub_tasks_again": 3},
            "recovered at step 57 in 184 ms, 3 sub-tasks computed again",
        ),
        (EventKind.WARNING, {"message": "NaN in a gradient"}, "warning: NaN in a gradient"),
        (
            EventKind.FAILED,
            {"reason": "ValueError: boom", "traceback": "...", "trainer": "t0"},
            "failed: ValueError: boom",
        ),
        (EventKind.FINISHED, {"steps": 100, "digest": "ab"}, "finished after 100 steps, final state ab"),
    ],
)
def test_every_kind_of_event_is_said(kind: EventKind, data: dict[str, Any], said: str) -> None:
    assert describe(make_event(1, kind, **data)) == said


@pytest.mark.parametrize("kind", list(EventKind))
def test_no_event_is_too_bare_to_say(kind: EventKind) -> None:
    assert describe(make_event(1, kind))


def test_a_watched_job_adds_up() -> None:
    progress = Progress().after(make_view(trainers=3)).after(make_event(1, EventKind.GENERATION, num_steps=200))
    for step in range(100):
        progress = progress.after(make_row(step, trainers=3, accuracy=0.5, loss=1 / (step + 1)))
    assert (progress.done, progress.total, progress.trainers, progress.logged) == (100, 200, 3, (("loss", 0.01),))
    assert progress.steps_per_s == pytest.approx(10)
    assert progress.eta_s == pytest.approx(10)
    assert line(progress) == "step 100/200  loss 0.01  3 trainers  10 steps/s  ETA 10.0 s"


def test_without_a_loss_the_first_logged_value_is_shown() -> None:
    assert Progress().after(make_row(0, reward=2.0, length=3.0)).logged == (("reward", 2.0),)


def test_an_ended_job_has_no_trainers_but_the_line_keeps_what_was() -> None:
    progress = (
        Progress().after(make_row(4, trainers=2)).after(make_view(state=JobState.SUCCEEDED, trainers=0, num_steps=5))
    )
    assert line(progress) == "step 5/5  loss 0.2  2 trainers  10 steps/s"


def test_plain_lines_come_at_parts_of_the_way_and_now_and_then() -> None:
    pace = Pace(at=0.0)
    assert pace.due(Progress(), 1000.0) is None, "nothing is done yet"
    assert pace.due(Progress(done=1), 1.0) is None
    assert pace.due(Progress(done=1), 31.0) == Pace(part=0, at=31.0)
    assert pace.due(Progress(done=4, total=100), 9.0) is None
    assert pace.due(Progress(done=5, total=100), 1.0) is None, "too soon"
    assert pace.due(Progress(done=5, total=100), 2.0) == Pace(part=1, at=2.0)
    assert Pace(part=1, at=2.0).due(Progress(done=9, total=100), 9.0) is None


def test_losses_and_recoveries_are_told_and_steps_are_not() -> None:
    assert told(make_row(1)) is None
    assert told(make_view()) is None
    assert told(make_event(1, EventKind.TRAINER_STARTED, trainer="t1")) is None
    assert told(make_event(1, EventKind.TRAINER_LOST, trainer="t1", step=3)) == "lost trainer t1 at step 3"


def test_long_reasons_are_cut_while_watching() -> None:
    text = told(make_event(1, EventKind.TRAINER_LOST, trainer="t1", reason="words " * 100))
    assert text is not None
    assert (len(text), text[-7:]) == (160, "words …"), "between words"
    assert told(make_event(1, EventKind.TRAINER_LOST, trainer="t1", reason="x" * 500)) == "lost trainer t1: …"
    assert told(make_event(1, EventKind.WARNING, message="one\ntwo")) == "warning: one"
