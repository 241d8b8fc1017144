"""Watching a job live: a progress bar on a terminal, plain lines elsewhere, and each loss and recovery as it happens."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Protocol

import typer
from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as RichProgress

from surefoot.cli.folding import fold, shortened
from surefoot.cli.format import duration
from surefoot.cli.last_lines import last_lines
from surefoot.cli.printing import text_width
from surefoot.cli.progress import Pace, Progress, line, told
from surefoot.cli.session import FAILED, console, say, say_error, say_words
from surefoot.cli.system import glance, live_trainers
from surefoot.cli.waiting import Waiting
from surefoot.client import Job
from surefoot.events import EventKind
from surefoot.spec import JobState
from surefoot.views import JobView, NumberedEvent

__all__ = ["DETACHED", "conclude", "watch", "watch_json"]

# As a shell counts an interrupt: the job has not ended, and whoever chains commands must not take it for done.
DETACHED = 130
# The bar's columns: so many at least and at most, and what is left to the rest of the line before it grows. The time behind it, with gaps.
_LEAST_BAR, _MOST_BAR, _NARROW, _ELAPSED = 8, 40, 100, 10
# of a line that goes to no terminal
_LINE = 160
# how often it is asked what trainers use
_ASK_S = 15.0


class Display(Protocol):
    """Where watching is shown."""

    def tell(self, text: str) -> None:
        """Print a line that stays."""

    def show(self, progress: Progress, *, last: bool = False) -> None:
        """Show where the job is now."""


def watch(job: Job, *, show: Sequence[str] = ()) -> None:
    """Follow `job` to its end, telling these logged values; none named: all that fit.

    Raises typer.Exit: 0 by success, FAILED otherwise, DETACHED by Ctrl-C."""
    out = console()
    progress = Progress(
        total=job.view.num_steps, trainers=job.view.trainers, show=tuple(show), waiting=Waiting.of(job.view)
    )
    try:
        with _display(out) as display:
            progress = _follow(job, progress, display)
    except KeyboardInterrupt:
        say_error(
            f"detached: job {job.id} goes on. See it again with `surefoot watch {job.id}`, end it with `surefoot cancel {job.id}`"
        )
        raise typer.Exit(DETACHED) from None
    conclude(job)


def watch_json(job: Job) -> None:
    """The same, as JSON: a line for each event, ledger row and view of the job."""
    try:
        for update in job.follow():
            kind = "job" if isinstance(update, JobView) else "event" if isinstance(update, NumberedEvent) else "row"
            say(json.dumps({kind: update.model_dump(mode="json")}))
    except KeyboardInterrupt:
        raise typer.Exit(DETACHED) from None
    if job.view.state is not JobState.SUCCEEDED:
        raise typer.Exit(FAILED)


def _follow(job: Job, progress: Progress, display: Display) -> Progress:
    asked = time.monotonic()
    display.show(progress)
    for update in job.follow():
        progress = progress.after(update)
        if time.monotonic() - asked > _ASK_S and not job.view.ended:
            progress, asked = replace(progress, system=glance(live_trainers(job))), time.monotonic()
        # The end has words of its own.
        if (text := told(update)) and not _is_end(update):
            display.tell(text)
        display.show(progress)
    display.show(progress, last=True)
    return progress


def _is_end(update: object) -> bool:
    if not isinstance(update, NumberedEvent):
        return False
    ends = {state.value for state in JobState if state.ended}
    return update.kind is EventKind.FAILED or (update.kind is EventKind.STATE and str(update.data.get("state")) in ends)


def conclude(job: Job) -> None:
    """Tell how the job has ended. Raises typer.Exit unless it succeeded."""
    view = job.view
    if view.state is JobState.SUCCEEDED:
        spent = (
            duration((view.ended_at - view.started_at).total_seconds())
            if view.ended_at and view.started_at
            else "some time"
        )
        digest = f", final state {view.digest}" if view.digest else ""
        say_words(f"job {view.id} succeeded: {view.steps_done} steps in {spent}{digest}")
        return
    if view.traceback:
        say_error(view.traceback.rstrip(), verbatim=True)
    for text in last_lines(job):
        say_error(text, verbatim=True)
    say_error(f"job {view.id} {view.state.value}: {view.reason or 'no reason was recorded'}")
    raise typer.Exit(FAILED)


# ---- where it is shown


@contextmanager
def _display(out: Console) -> Iterator[Display]:
    if not out.is_terminal:
        yield _Lines()
        return
    bar_width = max(_LEAST_BAR, min(_MOST_BAR, out.width - _NARROW))
    columns = (BarColumn(bar_width), TextColumn("{task.description}", markup=False), TimeElapsedColumn())
    with RichProgress(*columns, console=out, transient=True) as bar:
        yield _Bar(bar, out.width - bar_width - _ELAPSED)


class _Lines:
    """Lines for logs and pipes: a few progress lines, and what happened."""

    def __init__(self) -> None:
        self._pace = Pace(at=time.monotonic())
        self._said = self._waits_for = ""

    def tell(self, text: str) -> None:
        say_words(text, indent="  ")

    def show(self, progress: Progress, *, last: bool = False) -> None:
        due = self._pace.due(progress, time.monotonic())
        # what was chosen is told whole: nobody's terminal limits it
        text = line(progress, None) if progress.show else line(progress, int(min(_LINE, text_width())))
        if (due or (last and progress.done)) and self._said != text:
            self._pace, self._said = due or self._pace, text
            say_words(self._said, indent="  ")
        # not once for each of many trainers
        if (waits_for := progress.waits_for) and _numberless(waits_for) != _numberless(self._waits_for):
            say_words(waits_for, indent="  ")
        self._waits_for = waits_for


def _numberless(text: str) -> str:
    return re.sub(r"[0-9]+", "", text)


class _Bar:
    """A progress bar that redraws itself."""

    def __init__(self, bar: RichProgress, width: int) -> None:
        self._bar, self._width = bar, width
        self._task = bar.add_task("", total=None)

    def tell(self, text: str) -> None:
        for part in fold(text, self._bar.console.width, indent="  "):
            self._bar.console.print(part, soft_wrap=True)

    def show(self, progress: Progress, *, last: bool = False) -> None:
        if waits_for := progress.waits_for:
            self._bar.update(self._task, description=shortened(waits_for, self._width))
        elif progress.done:
            self._bar.update(
                self._task, total=progress.total, completed=progress.done, description=line(progress, self._width)
            )
        if last and progress.done:
            self._bar.console.print(line(progress, self._bar.console.width), soft_wrap=True)
