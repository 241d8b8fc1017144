"""Attempts in the store: made, claimed once, authorized, fenced."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from surefoot.events import Command, CommandKind, UplinkBatch
from surefoot.spec import JobSpec, JobState
from surefoot.views import Claimed
from surefoot_service.keys import Keys, digest, same
from surefoot_service.problems import ProblemError, conflict, not_found
from surefoot_service.store.jobs import change_state, lock
from surefoot_service.store.tables import AttemptRow, CommandRow, JobRow
from surefoot_service.store.uplink import Taken, take

__all__ = [
    "authorize",
    "claim",
    "commands_after",
    "fence",
    "make",
    "newest",
    "package_name",
    "package_uri",
    "take_from",
    "unfinished",
]


def package_uri(sha256: str) -> str:
    """Where Ray keeps a code package: its own object store, under its hash."""
    return f"gcs://{package_name(sha256)}"


def package_name(sha256: str) -> str:
    return f"surefoot_{sha256}.zip"


def make(session: Session, job: str, *, keys: Keys, session_name: str, reason: str, now: datetime) -> AttemptRow | None:
    """Start a queued job's next attempt, fencing those before it; None when it is queued no more."""
    row = lock(session, job)
    if row.state != JobState.QUEUED:
        return None
    earlier = session.scalars(select(AttemptRow).where(AttemptRow.job == job)).all()
    for attempt in earlier:
        attempt.fenced_at = attempt.fenced_at or now
    number = len(earlier) + 1
    name = f"{job}-{number}"
    made = AttemptRow(
        id=name,
        job=job,
        n=number,
        created_at=now,
        claim_hash=digest(keys.claim_code(name)),
        submission_id=f"surefoot-{name}",
        session=session_name,
    )
    session.add(made)
    change_state(session, row, JobState.STARTING, reason=reason, now=now)
    return made


def claim(session: Session, attempt: str, code: str, *, token: str, now: datetime) -> tuple[Claimed, str]:
    """Trade the single-use claim code for the token. Return it and the job.

    Raises problems: 404 no such attempt, 403 a wrong code, 410 fenced, ended or cancelled, 409 claimed before.
    """
    row = _find(session, attempt)
    job = lock(session, row.job)
    if not same(digest(code), row.claim_hash):
        raise ProblemError(403, "this is not the attempt's claim code")
    if row.fenced_at is not None or JobState(job.state).ended or job.cancel_at is not None:
        raise ProblemError(
            410, f"attempt {attempt} is over: job {job.id} is {job.state}, {job.reason or 'no reason given'}"
        )
    if row.claimed_at is not None:
        raise conflict(f"attempt {attempt} was claimed before; its code works once")
    row.claimed_at, row.token_hash = now, digest(token)
    spec = JobSpec.model_validate_json(job.spec)
    return Claimed(token=token, spec=spec, package_uri=package_uri(spec.package)), job.id


def authorize(session: Session, attempt: str, token: str) -> str:
    """Return the attempt's job. Raises problems: 401 for another token, 410 once the attempt is fenced."""
    row = session.get(AttemptRow, attempt)
    if row is None or row.token_hash is None or not same(digest(token), row.token_hash):
        raise ProblemError(401, "this is not the attempt's token", headers={"WWW-Authenticate": "Bearer"})
    if row.fenced_at is not None:
        raise ProblemError(410, f"attempt {attempt} is over: nothing it says counts any more")
    return row.job


def take_from(session: Session, attempt: str, token: str, batch: UplinkBatch, *, now: datetime) -> tuple[Taken, str]:
    """Take in an attempt's batch, if it may speak (see `authorize`). Return what it came to, and the job."""
    job = authorize(session, attempt, token)
    row = _find(session, attempt)
    row.spoke_at = row.spoke_at or now
    return take(session, job, batch, now=now), job


def fence(session: Session, attempt: str, now: datetime) -> None:
    """From now on nothing the attempt says counts."""
    row = _find(session, attempt)
    row.fenced_at = row.fenced_at or now


def newest(session: Session, job: str) -> AttemptRow | None:
    return session.scalar(select(AttemptRow).where(AttemptRow.job == job).order_by(AttemptRow.n.desc()).limit(1))


def unfinished(session: Session) -> Sequence[tuple[AttemptRow, JobRow]]:
    """Return every job's newest attempt that may have something on the cluster, with its job, in the queue's order."""
    last = select(AttemptRow.job, func.max(AttemptRow.n).label("n")).group_by(AttemptRow.job).subquery()
    query = (
        select(AttemptRow, JobRow)
        .join(last, (AttemptRow.job == last.c.job) & (AttemptRow.n == last.c.n))
        .join(JobRow, JobRow.id == AttemptRow.job)
        .where(AttemptRow.cleaned_at.is_(None))
        .order_by(JobRow.number)
    )
    return [(attempt, job) for attempt, job in session.execute(query)]


def commands_after(session: Session, job: str, after: int) -> tuple[Command, ...]:
    """Return the job's commands with n above `after`, oldest first."""
    query = select(CommandRow).where(CommandRow.job == job, CommandRow.n > after).order_by(CommandRow.n).limit(1000)
    return tuple(Command(n=c.n, kind=CommandKind(c.kind), trainers=c.trainers) for c in session.scalars(query))


def _find(session: Session, attempt: str) -> AttemptRow:
    row = session.get(AttemptRow, attempt)
    if row is None:
        raise not_found("attempt", attempt)
    return row
