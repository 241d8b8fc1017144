"""How things are said, and what a watched job comes to."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from tests.api.conftest import BEGIN, make_event, make_row, make_view

from surefoot.cli.format import ago, describe, duration, read_duration
from surefoot.cli.progress import Pace, Progress, line, told
from surefoot.cli.values import values_in
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


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("10m", 600), ("1.5h", 5400), ("2d", 172_800)]
    + [(text, None) for text in ("", "10", "m", "ten minutes", "-3s", "10m\n", "1 h")],
)
def test_durations_are_read(text: str, seconds: float | None) -> None:
    assert read_duration(text) == seconds


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
        (
            EventKind.DATA,
            {"trainer": "t1", "name": "train", "copied": False, "bytes": 1_230_000_000, "files": 40},
            "copying data train: 1.23 GB, 40 files",
        ),
        (
            EventKind.DATA,
            {"name": "train", "copied": True, "bytes": 3, "files": 1, "seconds": 4.2, "digest": "3f0c", "node": "n"},
            "copied data train: 3 bytes, 1 file to n in 4.2 s, digest 3f0c",
        ),
        (EventKind.DATA, {}, "copying data ?: ? files"),
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
    assert (progress.done, progress.total, progress.trainers) == (100, 200, 3)
    assert progress.logged == (("loss", 0.01), ("accuracy", 0.5))
    assert progress.steps_per_s == pytest.approx(10)
    assert progress.eta_s == pytest.approx(10)
    assert line(progress) == "step 100/200  loss 0.01  accuracy 0.5  3 trainers  10 steps/s  ETA 10.0 s"


def test_every_logged_value_is_shown_as_it_was_logged_last() -> None:
    progress = Progress().after(make_row(0, reward=2.0, length=3.0)).after(make_row(1, reward=4.0, loss=1.0))
    assert progress.logged == (("loss", 1.0), ("reward", 4.0), ("length", 3.0))


@given(
    st.dictionaries(st.text(min_size=1, max_size=60), st.floats(), max_size=12),
    st.integers(40, 200),
    st.lists(st.text(max_size=20), max_size=3),
)
def test_a_progress_line_is_as_wide_as_its_place(values: dict[str, float], width: int, show: list[str]) -> None:
    progress = Progress(total=2000, show=tuple(show), system="2 of 4 CPUs, 3.1 GB").after(make_view(trainers=12))
    for step in range(1000, 1003):
        row = make_row(step, trainers=12)
        result = row.result.model_copy(update={"values": values})
        progress = progress.after(row.model_copy(update={"result": result}))
    text = line(progress, width)
    least = f"step 1003/2000  {values_in(dict(progress.logged), 0)}"
    assert cell_len(text) <= max(width, cell_len(least))
    assert text.startswith("step 1003/2000")
    assert "\n" not in text
    told = len(progress.logged)
    more = re.search(r"  \+(\d+)(  |$)", text)
    assert told == 0 or more is None or int(more[1]) < told


def test_what_is_left_out_of_a_narrow_line_is_counted() -> None:
    progress = Progress(total=1000, system="GPU 97%")
    for step in range(60):
        progress = progress.after(make_row(step, trainers=3, accuracy=0.5, loss=0.25, lr=1e-3, norm=2.0))
    assert line(progress, 100) == (
        "step 60/1000  loss 0.25  accuracy 0.5  lr 0.001  +1  3 trainers  10 steps/s  GPU 97%  ETA 1 min 34 s"
    )
    assert line(progress, 60) == "step 60/1000  loss 0.25  +3  3 trainers  ETA 1 min 34 s"
    assert line(progress, 42) == "step 60/1000  loss 0.25  ETA 1 min 34 s"
    assert line(progress, 1) == "step 60/1000  loss 0.25"
    assert "norm 2" in line(progress, None)


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
    assert (len(text) <= 160, text[-7:]) == (True, "words …"), "between words"
    assert told(make_event(1, EventKind.TRAINER_LOST, trainer="t1", reason="x" * 500)) == "lost trainer t1: …"
    assert told(make_event(1, EventKind.WARNING, message="one\ntwo")) == "warning: one"
