"""A job brought to a tracker, which is named as the command line names it: "tensorboard:FOLDER", "mlflow:EXPERIMENT".

Each library is imported only where its tracker is asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from surefoot._given import a_text
from surefoot.client import Job
from surefoot.errors import OptionError, UserError
from surefoot.trackers.about import About, about
from surefoot.trackers.follow import Tracker, bring
from surefoot.trackers.mlflow import MLflow
from surefoot.trackers.tensorboard import TensorBoard
from surefoot.trackers.trackio import Trackio
from surefoot.trackers.wandb import WandB

__all__ = ["FORMS", "Tracked", "open_tracker", "track"]

_TRACKERS: dict[str, tuple[str, Callable[[str, About], Tracker]]] = {
    "tensorboard": ("FOLDER", TensorBoard),
    "mlflow": ("EXPERIMENT", MLflow),
    "wandb": ("[ENTITY/]PROJECT", WandB),
    "trackio": ("PROJECT", Trackio),
}
#: how trackers are named
FORMS = ", ".join(f"{kind}:{place}" for kind, (place, _) in _TRACKERS.items())


@dataclass(frozen=True, slots=True, kw_only=True)
class Tracked:
    """What was brought."""

    # where it can be seen: a URL, or the command that shows it
    where: str
    # how many steps were new, and the last that is there; -1: none
    written: int
    last_step: int
    # values that the tracker does not allow to be called as they are -> what they are called there
    renamed: Mapping[str, str]


def open_tracker(to: str, job: About) -> Tracker:
    """Open a tracker where the job left off in it. Raises UserError where it is none, and MissingExtraError."""
    kind, _, place = a_text(to, "to", "tensorboard:runs").partition(":")
    if kind not in _TRACKERS or not place:
        raise UserError(f"--to {to!r} must look like one of {FORMS}")
    return _TRACKERS[kind][1](place, job)


def track(job: Job, to: str, *, follow: bool = True, on_open: Callable[[str], object] = lambda where: None) -> Tracked:
    """Bring a job's logged values to a tracker, each step once; with `follow`, until the job has ended.

    Broken off, the same call goes on where it was. `on_open` is told where they can be seen, before the first is written.
    """
    if not isinstance(job, Job):
        raise OptionError(
            "job is no Job: give what client.job(...) or client.submit(...) returns; AsyncJob has no trackers"
        )
    tracker = open_tracker(to, about(job.view))
    outcome = None
    try:
        on_open(tracker.where)
        # asked before the rows are read: those of a job that has ended are all there
        live = follow and not job.refresh().view.ended
        brought = bring(job.iter_ledger(from_step=tracker.last_step() + 1), tracker)
        written = brought.written
        if live:
            brought = bring(job.rows(follow=True), tracker)
            written += brought.written
        outcome = job.view.state if job.view.ended else None
    finally:
        tracker.close(outcome)
    return Tracked(where=tracker.where, written=written, last_step=brought.last_step, renamed=tracker.renamed)
