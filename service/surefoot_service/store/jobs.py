"""Jobs in the store: created, read, moved along their life."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Sequence
from datetime import datetime

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from surefoot.events import CommandKind, EventKind
from surefoot.spec import JobSpec, JobState
from surefoot.views import JobView
from surefoot_service.lifecycle import Life, Move, move
from surefoot_service.problems import conflict, not_found, unprocessable
from surefoot_service.store.events import add_event, state_events
from surefoot_service.store.tables import AttemptRow, CommandRow, JobRow

__all__ = [
    "LIVE",
    "cancel",
    "change_state",
    "create",
    "explain_queued",
    "has_ended",
    "listing",
    "load",
    "lock",
    "resize",
    "see",
    "view",
    "with_states",
]

LIVE = (JobState.QUEUED, JobState.STARTING, JobState.RUNNING, JobState.RECOVERING)

# no 0, 1, l, o: ids are read aloud and typed
_ALPHABET = "23456789abcdefghijkmnpqrstuvwxyz"


def create(session: Session, spec: JobSpec, *, idempotency_key: str | None, now: datetime) -> tuple[JobView, bool]:
    """Queue a job. Return it, and whether it is new: the same key and spec again give the same job."""
    if idempotency_key is not None:
        known = session.scalar(select(JobRow).where(JobRow.idempotency_key == idempotency_key))
        if known is not None:
            if JobSpec.model_validate_json(known.spec) != spec:
                raise conflict(f"job {known.id} was submitted with this Idempotency-Key and another spec")
            return view(session, known), False
    row = JobRow(
        id="".join(secrets.choice(_ALPHABET) for _ in range(10)),
        spec=spec.model_dump_json(),
        state=JobState.QUEUED,
        created_at=now,
        wanted_trainers=spec.trainers,
        idempotency_key=idempotency_key,
    )
    session.add(row)
    session.flush()
    _tell_state(session, row, now)
    return view(session, row), True


def load(session: Session, job: str) -> JobRow:
    """Return the job; raises a 404 problem."""
    return _found(session.scalar(select(JobRow).where(JobRow.id == job)), job)


def lock(session: Session, job: str) -> JobRow:
    """Return the job, kept from other writers till the transaction ends; raises a 404 problem."""
    return _found(session.scalar(select(JobRow).where(JobRow.id == job).with_for_update()), job)


def _found(row: JobRow | None, job: str) -> JobRow:
    if row is None:
        raise not_found("job", job)
    return row


def listing(session: Session, *, state: JobState | None, limit: int, before: str | None) -> tuple[JobView, ...]:
    """Return jobs, newest first, older than the job `before`."""
    query = select(JobRow).order_by(JobRow.number.desc()).limit(limit)
    if state is not None:
        query = query.where(JobRow.state == state)
    if before is not None:
        query = query.where(JobRow.number < load(session, before).number)
    rows = session.scalars(query).all()
    newest = _newest_attempts(session, [r.id for r in rows])
    return tuple(_view(row, newest.get(row.id)) for row in rows)


def see(session: Session, job: str) -> JobView:
    """Return the job as users see it; raises a 404 problem."""
    return view(session, load(session, job))


def has_ended(row: JobRow) -> bool:
    return JobState(row.state).ended


def with_states(session: Session, states: Iterable[JobState]) -> Sequence[JobRow]:
    """Return jobs in the queue's order."""
    return session.scalars(select(JobRow).where(JobRow.state.in_(list(states))).order_by(JobRow.number)).all()


def view(session: Session, row: JobRow) -> JobView:
    return _view(row, _newest_attempts(session, [row.id]).get(row.id))


def _newest_attempts(session: Session, jobs: Sequence[str]) -> dict[str, str]:
    query = select(AttemptRow.job, AttemptRow.id).where(AttemptRow.job.in_(jobs)).order_by(AttemptRow.n)
    return dict(session.execute(query).all())


def _view(row: JobRow, attempt: str | None) -> JobView:
    return JobView(
        id=row.id,
        spec=JobSpec.model_validate_json(row.spec),
        state=JobState(row.state),
        reason=row.reason,
        created_at=row.created_at,
        started_at=row.started_at,
        ended_at=row.ended_at,
        trainers=row.trainers,
        wanted_trainers=row.wanted_trainers,
        generation=row.generation,
        steps_done=row.steps_done,
        num_steps=row.num_steps,
        digest=row.digest,
        traceback=row.traceback,
        attempt=attempt,
    )


def change_state(session: Session, row: JobRow, to: JobState, *, reason: str, now: datetime, tell: bool = True) -> None:
    """Move a locked job along its life; `tell`: record it as an event of the control plane's own.

    Raises TransitionError where its state does not lead there.
    """
    before = JobState(row.state)
    life = move(_life(session, row), to, reason=reason, at=now)
    row.state, row.reason = life.state, life.moves[-1].reason
    if before is to:
        return
    if before is JobState.QUEUED and to is JobState.STARTING:
        row.started_at = now
    if to.ended:
        row.ended_at, row.trainers = now, 0
    if tell:
        _tell_state(session, row, now)


def _life(session: Session, row: JobRow) -> Life:
    moves = [
        Move(state=JobState(str(e.data["state"])), reason=str(e.data.get("reason", "")), at=e.at)
        for e in state_events(session, row.id)
    ]
    # Told states that the table refused are in the events too: the row alone says where the job is.
    now = Move(state=JobState(row.state), reason=row.reason, at=moves[-1].at if moves else row.created_at)
    return Life(job=row.id, moves=(*moves[:-1], now))


def _tell_state(session: Session, row: JobRow, now: datetime) -> None:
    add_event(session, row.id, EventKind.STATE, {"state": str(row.state), "reason": row.reason}, now=now)


def explain_queued(session: Session, job: str, reason: str) -> bool:
    """Say why a job is still queued; return whether that is new."""
    row = lock(session, job)
    if row.state != JobState.QUEUED or row.reason == reason:
        return False
    row.reason = reason
    return True


def resize(session: Session, job: str, trainers: int, *, now: datetime) -> JobView:
    """Want another number of trainers. Raises a 409 problem once it has ended, 422 outside of the spec's bounds."""
    row = lock(session, job)
    spec = JobSpec.model_validate_json(row.spec)
    if JobState(row.state).ended or row.cancel_at is not None:
        raise conflict(
            f"job {job} is {row.state if JobState(row.state).ended else 'being cancelled'}: it has no more trainers to resize"
        )
    if not spec.min_trainers <= trainers <= spec.most_trainers:
        raise unprocessable(
            "body.trainers",
            f"{trainers} is not between min_trainers {spec.min_trainers} and max_trainers {spec.most_trainers}",
        )
    if trainers != row.wanted_trainers:
        row.wanted_trainers = trainers
        # Told to a queued job's supervisor as well, once there is one: it starts from the spec.
        _command(session, job, CommandKind.RESIZE, trainers, now)
    return view(session, row)


def cancel(session: Session, job: str, *, now: datetime) -> JobView:
    """Ask for the job's end; asked again, or after the end, it changes nothing."""
    row = lock(session, job)
    if row.state == JobState.QUEUED:
        change_state(session, row, JobState.CANCELLED, reason="cancelled while queued", now=now)
    elif not JobState(row.state).ended and row.cancel_at is None:
        row.cancel_at, row.reason = now, "cancel requested"
        _command(session, job, CommandKind.CANCEL, None, now)
    return view(session, row)


def _command(session: Session, job: str, kind: CommandKind, trainers: int | None, now: datetime) -> None:
    last = session.scalar(select(func.max(CommandRow.n)).where(CommandRow.job == job)) or 0
    session.add(CommandRow(job=job, n=last + 1, kind=kind, trainers=trainers, at=now))
