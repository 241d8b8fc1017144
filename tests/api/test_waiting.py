"""Whoever watches a job is told from the first moment what it waits for, and no more of it than is true now."""

from __future__ import annotations

import io
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from tests.api.conftest import FakeService, make_event, make_row, make_view
from typer.testing import CliRunner

from surefoot._follow import Update
from surefoot.cli.app import app
from surefoot.cli.printing import PlainConsole
from surefoot.cli.progress import Progress
from surefoot.cli.session import Session
from surefoot.cli.waiting import Waiting
from surefoot.cli.watch import _display
from surefoot.events import EventKind
from surefoot.spec import JobState


def view(state: JobState, **more: Any) -> Any:
    return make_view("j1", state, wanted_trainers=2, **more)


STORY: list[tuple[Update | None, str]] = [
    (None, "in the queue: the control plane looks for room"),
    (view(JobState.QUEUED, reason="needs 2 trainers x 1 CPU; 0 of 2 CPUs are free"), "0 of 2 CPUs are free"),
    (view(JobState.STARTING), "Ray starts the job's supervisor"),
    (make_event(0, EventKind.STATE, state="starting"), "Ray starts a process for each trainer"),
    (make_event(1, EventKind.TRAINER_STARTED, trainer="t0"), "0 of 2 trainers are ready"),
    (make_event(2, EventKind.TRAINER_STARTED, trainer="t1"), "0 of 2 trainers are ready"),
    (make_event(3, EventKind.TRAINER_READY, trainer="t0"), "1 of 2 trainers are ready"),
    (make_event(4, EventKind.TRAINER_LOST, trainer="t1"), "1 of 2 trainers are ready"),
    (make_event(5, EventKind.TRAINER_READY, trainer="t2"), "2 of 2 trainers are ready"),
    (
        make_event(6, EventKind.GENERATION, generation=1, trainers=["t0", "t2"], step=0),
        "the first step is being computed",
    ),
    (view(JobState.RUNNING), "the first step is being computed"),
    (make_row(0), ""),
    (view(JobState.RECOVERING, steps_done=1), ""),
    (view(JobState.PAUSING, steps_done=1), "saved at the next step's boundary"),
    (view(JobState.PAUSED, steps_done=1), "`surefoot resume`"),
    (make_event(7, EventKind.STATE, state="paused"), "`surefoot resume`"),
    (make_event(8, EventKind.STATE, state="queued"), "`surefoot resume`"),
    (view(JobState.STARTING, steps_done=1), "Ray starts the job's supervisor"),
    (make_event(9, EventKind.TRAINER_STARTED, trainer="t0"), "0 of 2 trainers are ready"),
    (view(JobState.RUNNING, steps_done=1), ""),
    (view(JobState.SUCCEEDED, steps_done=9), ""),
]


def test_each_stage_has_its_words() -> None:
    waiting = Waiting.of(view(JobState.QUEUED))
    for update, said in STORY:
        waiting = waiting if update is None else waiting.after(update)
        assert said in waiting.words, (update, waiting)
        assert bool(said) == bool(waiting.words), (update, waiting)


def test_who_begins_to_watch_late_is_told_of_now_alone() -> None:
    """All events are told again from the first one; a job that trains has waited long ago."""
    waiting = Waiting.of(view(JobState.RUNNING, steps_done=50))
    for update, _ in STORY[1:10]:
        if update is not None and not hasattr(update, "wanted_trainers"):
            waiting = waiting.after(update)
            assert waiting.words == ""


_DATA: tuple[dict[str, Any], ...] = (
    {},
    {"trainer": "t0"},
    {"trainer": None},
    {"trainer": ["t0"]},
    {"state": "queued"},
    {"state": 3},
    {"reason": "x", "state": "paused"},
)
_UPDATES: list[Update] = [
    *(make_view("j1", state, steps_done=steps) for state in JobState for steps in (0, 3)),
    *(make_event(n, kind, **data) for n, (kind, data) in enumerate((k, d) for k in EventKind for d in _DATA)),
    *map(make_row, range(3)),
]


@given(st.lists(st.sampled_from(_UPDATES), max_size=20))
def test_whatever_is_told_there_are_words_exactly_while_it_waits(updates: list[Update]) -> None:
    waiting = Waiting.of(view(JobState.QUEUED))
    for update in updates:
        waiting = waiting.after(update)
        assert isinstance(waiting.words, str)
        if isinstance(waiting.state, JobState) and waiting.state.ended:
            assert waiting.words == ""
        if waiting.state in (JobState.QUEUED, JobState.STARTING, JobState.PAUSED):
            assert waiting.words


def test_the_first_line_comes_before_anything_is_told(fake: FakeService) -> None:
    fake.add(make_view("j1", JobState.QUEUED, wanted_trainers=2))

    def interrupt(request: Any) -> Any:
        raise KeyboardInterrupt

    fake.faults = [("/stream", interrupt)]
    result = CliRunner().invoke(app, ["watch", "j1"], obj=Session(transport=fake.transport))
    assert result.stdout.splitlines() == ["in the queue: the control plane looks for room on the cluster"]


def test_lines_tell_a_stage_once_however_many_trainers_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    out = PlainConsole(width=80, file=io.StringIO())
    progress = Progress(waiting=Waiting.of(view(JobState.STARTING)))
    with _display(out) as display:
        display.show(progress)
        for n in range(40):
            progress = progress.after(make_event(n, EventKind.TRAINER_STARTED, trainer=f"t{n}"))
            display.show(progress)
        for n in range(40):
            progress = progress.after(make_event(n, EventKind.TRAINER_READY, trainer=f"t{n}"))
            display.show(progress)
    said = capsys.readouterr().out
    assert said.count("Ray starts the job's supervisor") == 1
    assert said.count("trainers are ready") == 1


@pytest.mark.parametrize("columns", [40, 60, 80, 200])
def test_the_bar_tells_it_and_fits(columns: int) -> None:
    out = PlainConsole(width=columns, force_terminal=True, file=io.StringIO(), highlight=False, markup=False)
    progress = Progress(waiting=Waiting.of(view(JobState.QUEUED)))
    with _display(out) as display:
        for update, _ in STORY:
            progress = progress if update is None else progress.after(update)
            display.show(progress)
            display._bar.refresh()  # type: ignore[attr-defined] # as its own thread does now and then
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", out.file.getvalue())  # type: ignore[attr-defined]
    lines = re.split(r"[\r\n]+", text)
    for said in ("in the queue", "Ray starts", "1 of 2", "all are", "paused"):
        assert any(said in each for each in lines), said
    assert max(map(cell_len, lines)) <= columns
