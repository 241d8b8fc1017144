"""Attempts in the store: made, claimed once, authorized, fenced."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from surefoot.events import Command, CommandKind, UplinkBatch
from surefoot.names import attempt_name
from surefoot.spec import JobSpec, JobState
from surefoot.views import Claimed
from surefoot_service.errors import ClaimCodeError, ConflictError, NotFoundError, OverError, TokenError
from surefoot_service.keys import Keys, digest, same
from surefoot_service.store.columns import LAST_COMMAND
from surefoot_service.store.commands import last_command
from surefoot_service.store.ingest import IngestResult, ingest, ingest_again
from surefoot_service.store.jobs import change_state, lock, own_place
from surefoot_service.store.reading import command_of, has_ended, spec_of
from surefoot_service.store.tables import AttemptRow, CommandRow, JobRow

__all__ = [
    "authorize",
    "claim",
    "commands_for",
    "fence",
    "hand_over",
    "ingest_from",
    "lock_with",
    "make",
    "newest",
    "of_token",
    "package_name",
    "package_uri",
    "unfinished",
]


# how long after the end of its job an attempt may still hand in what is new: rows that waited for us
_LAST_WORDS = timedelta(hours=2)


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
    name = attempt_name(job, number)
    made = AttemptRow(
        id=name,
        job=job,
        n=number,
        created_at=now,
        claim_hash=digest(keys.claim_code(name)),
        submission_id=f"surefoot-{name}",
        session=session_name,
        # What was asked before is in the job as it is now: the number of trainers that the claim tells, for one.
        commands_before=last_command(session, job),
    )
    session.add(made)
    # numbers of generations begin again
    row.generation, row.progressed = 0, False
    change_state(session, row, JobState.STARTING, reason=reason, now=now)
    return made


def claim(
    session: Session, attempt: str, code: str, *, token: str, checkpoints: str, now: datetime
) -> tuple[Claimed, str]:
    """Trade the single-use claim code for the token. Return it and the job.

    `checkpoints`: where jobs that name no place have theirs. Raises NotFoundError for no such attempt, ClaimCodeError,
    OverError where it is fenced, ended, paused or cancelled, ConflictError where it was claimed before.
    """
    row, job = lock_with(session, attempt)
    if not same(digest(code), row.claim_hash):
        raise ClaimCodeError()
    stopping = job.cancel_at is not None or (job.state == JobState.PAUSING and row.claimed_at is None)
    if row.fenced_at is not None or has_ended(job) or stopping:
        raise OverError(f"attempt {attempt} is over: job {job.id} is {job.state}, {job.reason or 'no reason given'}")
    if unreadable := spec_of(job).unreadable:
        raise OverError(f"attempt {attempt} cannot begin: {unreadable}")
    if row.claimed_at is not None:
        raise ConflictError(f"attempt {attempt} was claimed before; its code works once")
    row.claimed_at, row.token_hash = now, digest(token)
    # All attempts of a job have its checkpoints in the same place, although the default is another by then.
    job.checkpoint_place = own_place(job, checkpoints)
    # A number that was asked for since the submission is what the supervisor starts with.
    spec = JobSpec.model_validate(spec_of(job).spec.model_dump() | {"trainers": job.wanted_trainers})
    claimed = Claimed(
        token=token,
        spec=spec,
        package_uri=package_uri(spec.package),
        checkpoints=job.checkpoint_place,
        rows_below=job.steps_done,
    )
    return claimed, job.id


def of_token(session: Session, attempt: str, token: str) -> AttemptRow:
    """Return the attempt, which may be over. Raises TokenError for another token."""
    row = session.get(AttemptRow, attempt)
    if row is None or row.token_hash is None or not same(digest(token), row.token_hash):
        raise TokenError("this is not the attempt's token")
    return row


def authorize(session: Session, attempt: str, token: str) -> str:
    """Return the attempt's job. Raises TokenError for another token, OverError once the attempt is fenced."""
    row = of_token(session, attempt, token)
    if row.fenced_at is not None:
        raise OverError(f"attempt {attempt} is over: nothing it says counts any more")
    return row.job


def ingest_from(
    session: Session, attempt: str, token: str, batch: UplinkBatch, *, max_bytes: int, now: datetime
) -> tuple[IngestResult, str]:
    """Take in an attempt's batch, if it may speak (see `authorize`). Return what it came to, and the job.

    `max_bytes`: how much all attempts of one job may tell; a job that tells more fails.
    """
    authorize(session, attempt, token)
    row, job = lock_with(session, attempt)
    # again: it may have been fenced meanwhile
    authorize(session, attempt, token)
    if _has_told_all(row, job, now):
        return ingest_again(session, row, job, batch), job.id
    row.spoke_at = row.spoke_at or now
    return ingest(session, row, job, batch, max_bytes=max_bytes, now=now), job.id


def _has_told_all(attempt: AttemptRow, job: JobRow, now: datetime) -> bool:
    """Whether nothing new may come of the attempt: all of its job is stored, or the job ended long ago."""
    late = job.ended_at is not None and now - job.ended_at > _LAST_WORDS
    return attempt.closed_at is not None or late


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


def commands_for(session: Session, attempt: str, token: str, after: int) -> tuple[Command, ...]:
    """Return what is asked of the attempt with n above `after`, oldest first; raises as `authorize` does.

    A supervisor that was restarted asks from the beginning: states that are wanted (the last size, a pause, a cancel) are told it
    again, faults are not.
    """
    job = authorize(session, attempt, token)
    found = _find(session, attempt)
    if found.closed_at is not None:
        raise OverError(f"attempt {attempt} is over: its job has ended, and all of it is stored")
    before = found.commands_before
    query = (
        select(CommandRow)
        .where(CommandRow.job == job, CommandRow.told_at.is_(None))
        .where(CommandRow.n > max(after, before), CommandRow.n <= LAST_COMMAND)
        .order_by(CommandRow.n)
        .limit(1000)
    )
    commands = tuple(map(command_of, session.scalars(query)))
    last_size = max((c.n for c in commands if c.kind is CommandKind.RESIZE), default=None)
    return tuple(c for c in commands if c.kind is not CommandKind.RESIZE or c.n == last_size)


def hand_over(session: Session, attempt: str, token: str, after: int, *, now: datetime) -> tuple[Command, ...]:
    """The same, and remember that these faults were handed over: one whose answer is lost is not done, rather than done twice."""
    _, job = lock_with(session, attempt)
    commands = commands_for(session, attempt, token, after)
    faults = [c.n for c in commands if c.kind is CommandKind.FAULT]
    mine = (CommandRow.job == job.id, CommandRow.n.in_(faults))
    session.execute(update(CommandRow).where(*mine).values(told_at=now))
    return commands


def lock_with(session: Session, attempt: str) -> tuple[AttemptRow, JobRow]:
    """Return the attempt and its job, both as they are once the job is locked; raises NotFoundError."""
    row = _find(session, attempt)
    # A deleted job's attempt may still have something on the cluster, which is taken off as ever.
    job = lock(session, row.job, deleted=True)
    session.refresh(row)
    return row, job


def _find(session: Session, attempt: str) -> AttemptRow:
    row = session.get(AttemptRow, attempt)
    if row is None:
        raise NotFoundError("attempt", attempt)
    return row
