"""What users ask of a job: another size, a pause, a checkpoint, a fault, its end. Asked again, it changes nothing."""

from __future__ import annotations

import json
from datetime import datetime

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from surefoot.bounds import read_object
from surefoot.budget import Budget
from surefoot.events import CommandKind, FaultKind
from surefoot.spec import JobState
from surefoot.views import JobView
from surefoot_service.errors import ConflictError, InvalidError
from surefoot_service.policy.lifecycle import after_steps
from surefoot_service.store.columns import LAST_COMMAND
from surefoot_service.store.jobs import change_state, lock, view
from surefoot_service.store.reading import has_ended, shown_state, spec_of, state_of
from surefoot_service.store.tables import AttemptRow, CommandRow, JobRow

__all__ = ["cancel", "checkpoint", "inject", "last_command", "pause", "resize", "resume", "set_budget"]

# where a supervisor trains, or is about to
_TRAINING = (JobState.STARTING, JobState.RUNNING, JobState.RECOVERING)
# where nothing is on the cluster
_AT_REST = (JobState.QUEUED, JobState.PAUSED)


def resize(session: Session, job: str, trainers: int, *, now: datetime) -> JobView:
    """Want another number of trainers. Raises ConflictError once it has ended, InvalidError outside of the spec's bounds."""
    row = _going_on(session, job, "it has no more trainers to resize")
    spec = spec_of(row).spec
    if not spec.min_trainers <= trainers <= spec.most_trainers:
        raise InvalidError(
            "body.trainers",
            f"{trainers} is not between min_trainers {spec.min_trainers} and max_trainers {spec.most_trainers}",
        )
    if trainers != row.wanted_trainers:
        row.wanted_trainers = trainers
        # An attempt that is claimed later is told the number by its claim.
        _command(session, job, CommandKind.RESIZE, now, trainers=trainers)
    return view(session, row)


def cancel(session: Session, job: str, *, now: datetime) -> JobView:
    """Ask for the job's end; asked again, or after the end, it changes nothing."""
    row = lock(session, job)
    if has_ended(row):
        return view(session, row)
    if row.state in _AT_REST:
        reason = f"cancelled while {row.state}{after_steps(row.steps_done)}"
        change_state(session, row, JobState.CANCELLED, reason=reason, now=now)
    elif state_of(row) is None:
        _end_unknown(session, row, now)
    elif row.cancel_at is None:
        row.cancel_at, row.reason = now, "cancel requested"
        _command(session, job, CommandKind.CANCEL, now)
    return view(session, row)


def _end_unknown(session: Session, row: JobRow, now: datetime) -> None:
    """End a job whose state only a newer version knows, and whatever it may have on the cluster."""
    reason = f"cancelled while {row.state[:60]!r}, a state that this version of surefoot does not know"
    change_state(session, row, JobState.CANCELLED, reason=reason, now=now)
    for attempt in session.scalars(select(AttemptRow).where(AttemptRow.job == row.id, AttemptRow.fenced_at.is_(None))):
        attempt.fenced_at = now


def pause(session: Session, job: str, *, now: datetime, why: str = "") -> JobView:
    """Ask the job to stop at a step boundary, saved; a queued one is paused at once. Raises ConflictError once it has ended.

    `why`: where it is not a user who asks.
    """
    row = _going_on(session, job, "it cannot be paused")
    if row.state == JobState.QUEUED:
        change_state(session, row, JobState.PAUSED, reason=why or "paused while queued", now=now)
        row.retry_at = None
    elif row.state in _TRAINING:
        change_state(session, row, JobState.PAUSING, reason=why or "pause requested", now=now)
        _command(session, job, CommandKind.PAUSE, now)
    return view(session, row)


def resume(session: Session, job: str, *, now: datetime) -> JobView:
    """Queue a paused job again. Raises ConflictError once it has ended, and while it is still pausing."""
    row = _going_on(session, job, "it cannot be resumed")
    if row.state == JobState.PAUSING:
        raise ConflictError(f"job {job} is still pausing: resume it once it is paused")
    if row.state == JobState.PAUSED:
        # Nothing that the paused attempt may still say is to move the job now.
        for attempt in session.scalars(select(AttemptRow).where(AttemptRow.job == job, AttemptRow.fenced_at.is_(None))):
            attempt.fenced_at = now
        change_state(session, row, JobState.QUEUED, reason="resumed", now=now)
    return view(session, row)


def set_budget(session: Session, job: str, budget: Budget, *, now: datetime) -> JobView:
    """Give the job another budget. Raises ConflictError once it has ended. A job that is paused stays so until it is resumed."""
    row = _going_on(session, job, "it needs no budget")
    # As JSON, so that what a newer version has stored beside stays.
    row.spec = json.dumps(read_object(row.spec) | {"budget": budget.model_dump(mode="json")})
    return view(session, row)


def checkpoint(session: Session, job: str, *, now: datetime) -> JobView:
    """Ask for a checkpoint at the next step boundary. Raises ConflictError for a job that does not train."""
    row = _training(session, job, "there is nothing to save")
    _command(session, job, CommandKind.CHECKPOINT, now)
    return view(session, row)


def inject(session: Session, job: str, fault: FaultKind, leave: int, *, now: datetime) -> JobView:
    """Have a fault done to the job, for real, so that so many holders of its state live on. Raises ConflictError for one that does not
    train."""
    row = _training(session, job, "there is nothing to break")
    _command(session, job, CommandKind.FAULT, now, trainers=leave, fault=fault)
    return view(session, row)


def last_command(session: Session, job: str) -> int:
    """Return the number of the job's newest command; 0 before the first."""
    query = select(func.max(CommandRow.n)).where(CommandRow.job == job, CommandRow.n <= LAST_COMMAND)
    return session.scalar(query) or 0


def _going_on(session: Session, job: str, consequence: str) -> JobRow:
    row = lock(session, job)
    if has_ended(row) or row.cancel_at is not None:
        how = shown_state(row) if has_ended(row) else "being cancelled"
        raise ConflictError(f"job {job} is {how}: {consequence}")
    if state_of(row) is None:
        state = shown_state(row)
        raise ConflictError(
            f"job {job} is {state!r}, a state that only a newer version of surefoot knows: {consequence}; cancel it"
        )
    return row


def _training(session: Session, job: str, consequence: str) -> JobRow:
    row = _going_on(session, job, consequence)
    if row.state not in (*_TRAINING, JobState.PAUSING):
        raise ConflictError(f"job {job} is {row.state}: {consequence}")
    return row


def _command(
    session: Session,
    job: str,
    kind: CommandKind,
    now: datetime,
    *,
    trainers: int | None = None,
    fault: FaultKind | None = None,
) -> None:
    n = last_command(session, job) + 1
    session.add(CommandRow(job=job, n=n, kind=kind, trainers=trainers, fault=fault, at=now))
    session.flush()
