"""The index of printed lines: which files a job has, and how far each source's lines are stored."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from surefoot.names import attempt_number
from surefoot_service.errors import OverError
from surefoot_service.store.attempts import of_token
from surefoot_service.store.jobs import load, lock
from surefoot_service.store.reading import has_ended
from surefoot_service.store.tables import JobRow, LogChunkRow, LogSourceRow

__all__ = [
    "Kept",
    "MovedOnError",
    "NewChunk",
    "Printer",
    "add",
    "authorize",
    "chunks",
    "kept",
    "last_chunks",
    "replace",
    "small_chunks",
    "stored",
]

# how long after the end of its job an attempt may still hand in what was printed
_LAST_LINES = timedelta(hours=2)
# how long after it lines are waited for that nobody has said the end of
_PATIENCE = timedelta(seconds=30)
# of a job: collectors that told lines. Each trainer that was ever started has one or a few
_MOST_SOURCES = 100_000


class MovedOnError(Exception):
    """Another has stored lines of the same sources meanwhile."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Printer:
    """Whose lines they are."""

    job: str
    attempt: str

    @property
    def number(self) -> int:
        return attempt_number(self.attempt)


@dataclass(frozen=True, slots=True, kw_only=True)
class NewChunk:
    """A file that is written, and is to be found from now on."""

    name: str
    lines: int
    num_bytes: int
    text_bytes: int
    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """What there is of a job's lines."""

    first: int
    end: int
    # nothing more will come
    done: bool


def authorize(session: Session, attempt: str, token: str, now: datetime) -> Printer:
    """Return whose lines these are. Raises TokenError for another token, OverError long after the job's end.

    A fenced attempt may tell what it printed: its lines are no part of the run, and people want to see why it was given up.
    """
    row = of_token(session, attempt, token)
    job = session.scalar(select(JobRow).where(JobRow.id == row.job))
    if job is None or job.deleted_at is not None or (job.ended_at is not None and now - job.ended_at > _LAST_LINES):
        raise OverError(f"attempt {attempt} is over: what it prints is not kept any more")
    return Printer(job=row.job, attempt=attempt)


def stored(session: Session, job: str, sources: Iterable[str]) -> dict[str, int]:
    """Return below which numbers each source's lines are stored; 1: none is."""
    names = list(sources)
    query = select(LogSourceRow.source, LogSourceRow.below).where(
        LogSourceRow.job == job, LogSourceRow.source.in_(names)
    )
    return dict.fromkeys(names, 1) | {row.source: row.below for row in session.execute(query)}


def add(
    session: Session,
    job: str,
    chunk: NewChunk,
    *,
    before: Mapping[str, int],
    after: Mapping[str, int],
    over: Iterable[str],
    max_bytes: int,
) -> list[str]:
    """Add a file with what these sources printed: their lines from `before` to below `after`. Return files that go for it, the oldest.

    `over`: sources whose processes have ended. Raises MovedOnError where not just the lines below `before` are stored, NotFoundError where
    the job is deleted.
    """
    lock(session, job)
    query = select(LogSourceRow).where(LogSourceRow.job == job, LogSourceRow.source.in_(list(after)))
    rows = {row.source: row for row in session.scalars(query)}
    if any(below != (rows[source].below if source in rows else 1) for source, below in before.items()):
        raise MovedOnError
    _note_sources(session, job, rows, after, set(over))
    total, end = _size(session, job)
    gone = _make_room(session, job, total, max_bytes - chunk.num_bytes)
    session.add(_row(job, end, chunk))
    session.flush()
    return gone


def _note_sources(
    session: Session, job: str, rows: Mapping[str, LogSourceRow], after: Mapping[str, int], ended: set[str]
) -> None:
    new = after.keys() - rows.keys()
    if new and (session.scalar(select(func.count()).where(LogSourceRow.job == job)) or 0) > _MOST_SOURCES:
        raise OverError(f"more than {_MOST_SOURCES} processes of job {job} have printed")
    for source, below in after.items():
        if source in new:
            session.add(LogSourceRow(job=job, source=source, below=below, over=source in ended))
        else:
            # what an ended process has printed may be told once more
            rows[source].below, rows[source].over = below, rows[source].over or source in ended


def _size(session: Session, job: str) -> tuple[int, int]:
    """Return how many bytes a job's files have, and the number after their last line."""
    sums = select(func.sum(LogChunkRow.num_bytes), func.max(LogChunkRow.first + LogChunkRow.lines))
    total, end = session.execute(sums.where(LogChunkRow.job == job)).one()
    return total or 0, end or 0


def _row(job: str, first: int, chunk: NewChunk) -> LogChunkRow:
    return LogChunkRow(
        job=job,
        first=first,
        lines=chunk.lines,
        num_bytes=chunk.num_bytes,
        text_bytes=chunk.text_bytes,
        at=chunk.at,
        name=chunk.name,
    )


def _make_room(session: Session, job: str, total: int, room: int) -> list[str]:
    """Take the oldest of `total` bytes of files out of the index, all but the newest, until they fit. Return their names."""
    gone: list[str] = []
    while total > room and len(some := chunks(session, job, 0, 100)) > 1:
        for row in some[:-1]:
            if total > room:
                total -= row.num_bytes
                gone.append(row.name)
                session.delete(row)
        session.flush()
    return gone


def kept(session: Session, job: str, now: datetime | None = None) -> Kept:
    """Say what there is of a job's lines; `now`: and whether more may come."""
    mine = LogChunkRow.job == job
    first = session.scalar(select(func.min(LogChunkRow.first)).where(mine)) or 0
    last = session.scalar(select(LogChunkRow).where(mine).order_by(LogChunkRow.first.desc()).limit(1))
    done = now is not None and _is_done(session, load(session, job), now)
    return Kept(first=first, end=last.first + last.lines if last else 0, done=done)


def _is_done(session: Session, job: JobRow, now: datetime) -> bool:
    if not has_ended(job):
        return False
    if job.ended_at is None or now - job.ended_at > _PATIENCE:
        return True
    mine = LogSourceRow.job == job.id
    some = session.scalar(select(func.count()).where(mine))
    going = session.scalar(select(func.count()).where(mine, LogSourceRow.over.is_(False)))
    return bool(some) and not going


def chunks(session: Session, job: str, start: int, limit: int) -> Sequence[LogChunkRow]:
    """Return files, oldest first, from the one that has line `start` on."""
    query = select(LogChunkRow).where(LogChunkRow.job == job, LogChunkRow.first + LogChunkRow.lines > start)
    return session.scalars(query.order_by(LogChunkRow.first).limit(limit)).all()


def last_chunks(session: Session, job: str, below: int, limit: int) -> Sequence[LogChunkRow]:
    """Return files, newest first, whose first line is below `below`."""
    query = select(LogChunkRow).where(LogChunkRow.job == job, LogChunkRow.first < below)
    return session.scalars(query.order_by(LogChunkRow.first.desc()).limit(limit)).all()


def small_chunks(session: Session, job: str, num_bytes: int, text_bytes: int, limit: int) -> Sequence[LogChunkRow]:
    """Return the newest files that are smaller than this, and have less text, oldest first.

    The newest, since older ones that could not be joined with neighbours never can be.
    """
    query = select(LogChunkRow).where(
        LogChunkRow.job == job, LogChunkRow.num_bytes < num_bytes, LogChunkRow.text_bytes < text_bytes
    )
    return session.scalars(query.order_by(LogChunkRow.first.desc()).limit(limit)).all()[::-1]


def replace(session: Session, job: str, firsts: Sequence[int], chunk: NewChunk) -> bool:
    """Put one file in the place of several that follow each other; False: they are not what they were."""
    lock(session, job)
    mine = (LogChunkRow.job == job, LogChunkRow.first.in_(firsts))
    found = session.scalars(select(LogChunkRow).where(*mine)).all()
    if len(found) != len(firsts) or sum(row.lines for row in found) != chunk.lines:
        return False
    session.execute(delete(LogChunkRow).where(*mine))
    session.add(_row(job, min(firsts), chunk))
    session.flush()
    return True
