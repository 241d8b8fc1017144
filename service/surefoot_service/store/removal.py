"""Jobs that are deleted: from one commit on there is no such job, and what is left of it goes piece by piece.

The commit that marks the job is the deletion. Before it the job is whole; after it nobody is shown the job, its attempts are fenced,
and its row stays only as the note of what is still to be removed: its history, by bounded transactions, its checkpoints, and last,
once nothing of it is on the cluster, the row itself. A service that ends in between goes on at its next start.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import ColumnElement, Table, delete, select, tuple_, update
from sqlalchemy.orm import Session

from surefoot.spec import JobState
from surefoot.views import AuditAction
from surefoot_service.errors import ConflictError, NotFoundError
from surefoot_service.store import audit
from surefoot_service.store.reading import has_ended
from surefoot_service.store.tables import AttemptRow, Base, JobRow

__all__ = [
    "Leftover",
    "beginners",
    "checkpoints_done",
    "due",
    "finish",
    "history_tables",
    "leftovers",
    "mark",
    "purge",
    "starts",
]

# rows a transaction: a tenth of a second, so that no other writer waits long
CHUNK = 10_000
_ENDED = tuple(s for s in JobState if s.ended)


@dataclass(frozen=True, slots=True, kw_only=True)
class Leftover:
    """A deleted job of which something is left."""

    job: str
    # JobSpec as JSON
    spec: str
    # where they lie; None: where its spec, or the default, says
    place: str | None
    checkpoints: bool
    # nothing of it is on the cluster any more, as far as is known
    is_off_the_cluster: bool


def mark(session: Session, job: str, *, by: str, checkpoints: bool, now: datetime) -> bool:
    """Delete a job that has ended. Return whether that is new: one that was deleted before is as it is asked to be.

    Raises NotFoundError where there never was such a job, ConflictError where it has not ended, or another one begins from the
    checkpoints that are to go.
    """
    row = _locked(session, job)
    if row is None and not audit.is_noted(session, AuditAction.JOB_DELETED, job):
        raise NotFoundError("job", job)
    if row is None or row.deleted_at is not None:
        return False
    if not has_ended(row):
        raise ConflictError(f"job {job} is {row.state}: cancel it first, and delete it once it has ended")
    if checkpoints and (others := beginners(session, job)):
        raise ConflictError(
            f"job {others[0]} begins from a checkpoint of job {job} and has not ended: delete the job without its checkpoints, "
            "or when that one has ended"
        )
    row.deleted_at, row.delete_checkpoints = now, checkpoints
    # the same key may submit anew
    row.idempotency_key = None
    session.execute(
        update(AttemptRow).where(AttemptRow.job == job, AttemptRow.fenced_at.is_(None)).values(fenced_at=now)
    )
    what = f"{row.state} since {row.ended_at:%Y-%m-%d %H:%M} UTC, " if row.ended_at else ""
    kept = "with its checkpoints" if checkpoints else f"its checkpoints stay: {row.checkpoint or 'it has none'}"
    audit.note(session, AuditAction.JOB_DELETED, job, by=by, detail=f"{what}{kept}", now=now)
    return True


def beginners(session: Session, job: str) -> list[str]:
    """Return the jobs that have not ended and begin from one of this job's checkpoints."""
    query = select(JobRow.id, JobRow.spec).where(
        JobRow.id != job, JobRow.state.not_in(_ENDED), JobRow.deleted_at.is_(None), JobRow.spec.contains(job)
    )
    return [other for other, spec in session.execute(query) if job in _restore(spec).split("/")]


def starts(session: Session, job: str, spec: str) -> list[str]:
    """Return from where jobs that have not ended begin, and this one itself: nothing of that is removed."""
    query = select(JobRow.spec).where(JobRow.id != job, JobRow.state.not_in(_ENDED), JobRow.deleted_at.is_(None))
    return [start for start in map(_restore, [spec, *session.scalars(query)]) if start]


def _restore(spec: str) -> str:
    """Where a stored spec begins from, however little else of it can be read."""
    try:
        return str(json.loads(spec).get("restore") or "")
    except (ValueError, AttributeError):
        return ""


def leftovers(session: Session, limit: int = 100) -> list[Leftover]:
    """Return deleted jobs of which something is left, oldest first."""
    query = select(JobRow).where(JobRow.deleted_at.is_not(None)).order_by(JobRow.number).limit(limit)
    return [_leftover(session, row) for row in session.scalars(query)]


def _leftover(session: Session, row: JobRow) -> Leftover:
    there = select(AttemptRow.id).where(AttemptRow.job == row.id, AttemptRow.cleaned_at.is_(None)).limit(1)
    return Leftover(
        job=row.id,
        spec=row.spec,
        place=row.checkpoint_place,
        checkpoints=row.delete_checkpoints,
        is_off_the_cluster=session.scalar(there) is None,
    )


def history_tables() -> list[Table]:
    """Every table that refers to jobs, but for the attempts, which say what may be on the cluster."""
    kept = {JobRow.__tablename__, AttemptRow.__tablename__}
    tables = [t for t in reversed(Base.metadata.sorted_tables) if t.name not in kept]
    return [t for t in tables if any(key.column.table.name == JobRow.__tablename__ for key in t.foreign_keys)]


def purge(session: Session, job: str) -> bool:
    """Remove up to CHUNK rows of a deleted job's history; return whether that was the last of it."""
    for table in history_tables():
        keys = tuple_(*table.primary_key.columns)
        some = select(*table.primary_key.columns).where(_of(table, job)).limit(CHUNK)
        if session.execute(delete(table).where(keys.in_(some))).rowcount:  # type: ignore[attr-defined]
            return False
    return True


def _of(table: Table, job: str) -> ColumnElement[bool]:
    key = next(k for k in table.foreign_keys if k.column.table.name == JobRow.__tablename__)
    return key.parent == job


def checkpoints_done(session: Session, job: str, action: AuditAction, detail: str, *, now: datetime) -> None:
    """A deleted job's checkpoints are gone, or stay for the reason told: nothing more is to be done about them."""
    row = _locked(session, job)
    if row is not None and row.deleted_at is not None and row.delete_checkpoints:
        row.delete_checkpoints = False
        audit.note(session, action, job, by="the job's deletion", detail=detail, now=now)


def finish(session: Session, job: str) -> bool:
    """Remove the last of a deleted job whose history and checkpoints are gone; return whether there was something."""
    row = _locked(session, job)
    if row is None or row.deleted_at is None or row.delete_checkpoints:
        return False
    session.execute(delete(AttemptRow).where(AttemptRow.job == job))
    session.delete(row)
    return True


def _locked(session: Session, job: str) -> JobRow | None:
    """The job as it is, deleted or not, kept from other writers till the transaction ends."""
    query = select(JobRow).where(JobRow.id == job).with_for_update().execution_options(populate_existing=True)
    return session.scalar(query)


def due(session: Session, *, before: datetime | None, keep: int | None, limit: int) -> Sequence[tuple[str, str]]:
    """Return ended jobs that a rule of retention removes, with the rule: ended before `before`, or not among the newest `keep` ended."""
    ended = (JobRow.state.in_(_ENDED), JobRow.deleted_at.is_(None))
    found: dict[str, str] = {}
    if before is not None:
        old = select(JobRow.id).where(*ended, JobRow.ended_at < before).order_by(JobRow.number).limit(limit)
        found.update(dict.fromkeys(session.scalars(old), f"retention: ended before {before:%Y-%m-%d %H:%M} UTC"))
    if keep is not None:
        many = select(JobRow.id).where(*ended).order_by(JobRow.ended_at.desc(), JobRow.number.desc()).offset(keep)
        for job in session.scalars(many.limit(limit)):
            found.setdefault(job, f"retention: the newest {keep} ended jobs stay")
    return list(found.items())[:limit]
