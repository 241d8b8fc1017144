"""Jobs in the store: created, read, moved along their life."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterable, Sequence
from datetime import datetime

from pydantic import ValidationError
from sqlalchemy import select
from sqlalchemy.orm import Session

from surefoot.errors import SurefootError
from surefoot.events import EventKind
from surefoot.names import is_job
from surefoot.spec import JobSpec, JobState
from surefoot.stored_spec import StoredSpec
from surefoot.views import JobView, NumberedEvent
from surefoot_service.checkpoints.places import belongs
from surefoot_service.errors import ConflictError, InvalidError, NotFoundError
from surefoot_service.policy.lifecycle import Life, Move, move
from surefoot_service.store.columns import NoNumber
from surefoot_service.store.events import add_event, state_events
from surefoot_service.store.reading import has_ended, shown_state, spec_of, state_of
from surefoot_service.store.secrets import check_there
from surefoot_service.store.tables import AttemptRow, JobRow, PackageRow
from surefoot_service.tracing.context import Asked, context_of

__all__ = [
    "UnknownStateError",
    "change_state",
    "create",
    "explain_queued",
    "has_ended",
    "load",
    "lock",
    "own_place",
    "place_of",
    "see",
    "see_source",
    "see_with_place",
    "view",
    "view_of",
    "with_states",
]

# no 0, 1, l, o: ids are read aloud and typed
_ALPHABET = "23456789abcdefghijkmnpqrstuvwxyz"


def create(
    session: Session,
    spec: JobSpec,
    *,
    idempotency_key: str | None,
    now: datetime,
    checkpoints: str = "",
    asked: Asked | None = None,
) -> tuple[JobView, bool]:
    """Queue a job. Return it, and whether it is new: the same key and spec again give the same job.

    `checkpoints`: where jobs that name no place have theirs. `asked`: for its trace; None: there is to be none.
    """
    if idempotency_key is not None:
        known = session.scalar(select(JobRow).where(JobRow.idempotency_key == idempotency_key))
        if known is not None:
            if not _same(spec_of(known).spec, spec):
                raise ConflictError(f"job {known.id} was submitted with this Idempotency-Key and another spec")
            return view(session, known), False
    # in this transaction, as packages that no job refers to are collected in another
    if session.get(PackageRow, spec.package, with_for_update={"read": True}) is None:
        raise InvalidError("body.package", f"package {spec.package} is not here; upload it first (POST /v1/packages)")
    check_there(session, spec.secrets.values())
    spec = _with_restore(session, spec, checkpoints)
    row = JobRow(
        id="".join(secrets.choice(_ALPHABET) for _ in range(10)),
        spec=spec.model_dump_json(),
        state=JobState.QUEUED,
        created_at=now,
        wanted_trainers=spec.trainers,
        idempotency_key=idempotency_key,
    )
    if asked is not None and (context := context_of(row.id, asked.context)).sampled:
        row.traceparent, row.asked_at = str(context), asked.at
    session.add(row)
    session.flush()
    _tell_state(session, row, now)
    return view(session, row), True


def _with_restore(session: Session, spec: JobSpec, checkpoints: str) -> JobSpec:
    """The spec with the checkpoint that another job's id means. It is fixed here: every attempt is to begin from the same.

    Raises InvalidError where there is no such job, no checkpoint of it, or one that its training code told to be somewhere else.
    """
    if spec.restore is None or not is_job(spec.restore):
        return spec
    other = session.scalar(select(JobRow).where(JobRow.id == spec.restore, JobRow.deleted_at.is_(None)))
    if other is None:
        message = f"there is no job {spec.restore!r}; name a job, or a checkpoint by its path (with a slash) or URL"
        raise InvalidError("body.restore", message)
    if other.checkpoint is None:
        raise InvalidError("body.restore", f"job {other.id} has no checkpoint yet")
    try:
        place = own_place(other, checkpoints)
    except ValueError:
        message = (
            f"it cannot be read where the checkpoints of job {other.id} lie; name the one that is meant by its URL"
        )
        raise InvalidError("body.restore", message) from None
    if not belongs(other.checkpoint, place):
        message = (
            f"the checkpoint of job {other.id} was told to be {other.checkpoint!r}, which is not below its place {place!r}; "
            "if it is the right one, name it by its URL"
        )
        raise InvalidError("body.restore", message)
    return _with(spec, other.checkpoint)


def _with(spec: JobSpec, restore: str) -> JobSpec:
    """The spec with another beginning, checked as any spec is."""
    try:
        return JobSpec.model_validate(spec.model_dump() | {"restore": restore})
    except ValidationError as error:
        raise InvalidError("body.restore", f"{restore!r} cannot be begun from: {error.errors()[0]['msg']}") from None


def _same(known: JobSpec, spec: JobSpec) -> bool:
    """Whether a stored spec is this one; its budget may have been changed since, and which checkpoint it begins from been fixed."""
    known = known.model_copy(update={"budget": spec.budget})
    if spec.restore is None or known.restore is None:
        return known == spec
    if is_job(spec.restore) or known.restore.startswith(f"{spec.restore.rstrip('/')}/"):
        spec = _with(spec, known.restore)
    return known == spec


def load(session: Session, job: str) -> JobRow:
    """Return the job; raises NotFoundError."""
    return _found(session.scalar(select(JobRow).where(JobRow.id == job, JobRow.deleted_at.is_(None))), job)


def lock(session: Session, job: str, *, deleted: bool = False) -> JobRow:
    """Return the job as it is, kept from other writers till the transaction ends; raises NotFoundError.

    What is read of a job and its attempts before is as of another time: who decides by it reads it after. And whoever writes to them
    locks the job first, so that no two wait for each other. `deleted`: also one that was deleted and is still being removed.
    """
    query = select(JobRow).where(JobRow.id == job).with_for_update().execution_options(populate_existing=True)
    if not deleted:
        query = query.where(JobRow.deleted_at.is_(None))
    return _found(session.scalar(query), job)


def _found(row: JobRow | None, job: str) -> JobRow:
    if row is None:
        raise NotFoundError("job", job)
    return row


def place_of(job: str, spec: str, default: str) -> str:
    """Where a stored job's checkpoints lie, however little of its spec can be read. Raises ValueError where that cannot."""
    stored = json.loads(spec)
    policy = stored.get("checkpoint") or {} if isinstance(stored, dict) else None
    if not isinstance(policy, dict):
        raise ValueError(f"the spec of job {job} cannot be read")
    return f"{str(policy.get('url') or default).rstrip('/')}/{job}"


def own_place(row: JobRow, default: str) -> str:
    """Where the job's checkpoints lie: where its first attempt was told, whatever is the default since; or as far as its spec is read."""
    return row.checkpoint_place or f"{(spec_of(row).spec.checkpoint.url or default).rstrip('/')}/{row.id}"


def see_with_place(session: Session, job: str, default: str) -> tuple[JobView, str]:
    """As `see`, and the job's own place for checkpoints."""
    row = load(session, job)
    return view(session, row), own_place(row, default)


def see_source(session: Session, job: str, idempotency_key: str | None) -> JobView:
    """Return a job that is to be submitted again; where it is gone, the one that came of it. Raises NotFoundError."""
    try:
        return see(session, job)
    except NotFoundError:
        known = None
        if idempotency_key is not None:
            known = session.scalar(select(JobRow).where(JobRow.idempotency_key == idempotency_key))
        if known is None:
            raise
        return view(session, known)


def see(session: Session, job: str) -> JobView:
    """Return the job as users see it; raises NotFoundError."""
    return view(session, load(session, job))


def with_states(session: Session, states: Iterable[JobState]) -> Sequence[JobRow]:
    """Return jobs in the queue's order."""
    return session.scalars(select(JobRow).where(JobRow.state.in_(list(states))).order_by(JobRow.number)).all()


def view(session: Session, row: JobRow) -> JobView:
    newest = select(AttemptRow.id, AttemptRow.n).where(AttemptRow.job == row.id).order_by(AttemptRow.n.desc()).limit(1)
    attempt, attempts = session.execute(newest).one_or_none() or (None, 0)
    return view_of(row, attempt, attempts)


def view_of(row: JobRow, attempt: str | None, attempts: int) -> JobView:
    stored = spec_of(row)
    return JobView(
        id=row.id,
        spec=stored.spec,
        state=shown_state(row),
        unreadable=_unreadable(row, stored),
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
        attempts=attempts,
        checkpoint=row.checkpoint,
        checkpoint_step=row.checkpoint_step,
        model=row.model,
    )


_NUMBERS = ("trainers", "wanted_trainers", "generation", "steps_done", "num_steps", "checkpoint_step")


def _unreadable(row: JobRow, stored: StoredSpec) -> str:
    state = "" if state_of(row) else f"this version of surefoot knows no state {row.state[:60]!r}"
    wrong = ", ".join(name for name in _NUMBERS if isinstance(getattr(row, name), NoNumber))
    numbers = f"what is stored of it is no number: {wrong}" if wrong else ""
    return "; ".join(part for part in (state, stored.unreadable, numbers) if part)


def change_state(session: Session, row: JobRow, to: JobState, *, reason: str, now: datetime, tell: bool = True) -> None:
    """Move a locked job along its life; `tell`: record it as an event of the control plane's own.

    Raises TransitionError where its state does not lead there.
    """
    before = state_of(row)
    if before is None:
        _leave_unknown(row, to, reason)
    else:
        life = move(_life(session, row, before), to, reason=reason, at=now)
        row.state, row.reason = life.state, life.moves[-1].reason
    if before is to:
        return
    if before is JobState.QUEUED and to is JobState.STARTING:
        row.started_at, row.retry_at = row.started_at or now, None
    if to.ended:
        row.ended_at = now
    if to.ended or to in (JobState.PAUSED, JobState.QUEUED):
        row.trainers = 0
    if tell:
        _tell_state(session, row, now)


def _leave_unknown(row: JobRow, to: JobState, reason: str) -> None:
    """From a state that only a newer version knows, this one leads a job nowhere but to its end."""
    if not to.ended:
        raise UnknownStateError(f"job {row.id} is {row.state!r}, a state that this version of surefoot does not know")
    row.state, row.reason = to, reason


class UnknownStateError(SurefootError):
    """A job is in a state of a newer version, which alone knows where it leads."""


def _life(session: Session, row: JobRow, state: JobState) -> Life:
    moves = [
        Move(state=told, reason=str(e.data.get("reason") or ""), at=e.at)
        for e in state_events(session, row.id)
        if (told := _told_state(e)) is not None
    ]
    # Told states that the table refused are in the events too: the row alone says where the job is.
    now = Move(state=state, reason=row.reason, at=moves[-1].at if moves else row.created_at)
    return Life(job=row.id, moves=(*moves[:-1], now))


def _told_state(event: NumberedEvent) -> JobState | None:
    try:
        return JobState(str(event.data.get("state")))
    except ValueError:
        return None  # of another version


def _tell_state(session: Session, row: JobRow, now: datetime) -> None:
    add_event(session, row.id, EventKind.STATE, {"state": str(row.state), "reason": row.reason}, now=now)


def explain_queued(session: Session, job: str, reason: str) -> bool:
    """Say why a job is still queued; return whether that is new."""
    row = lock(session, job)
    if row.state != JobState.QUEUED or row.reason == reason:
        return False
    row.reason = reason
    return True
