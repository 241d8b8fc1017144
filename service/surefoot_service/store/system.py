"""What trainers use: a sample a trainer and minute, the newest of each, for so long and so many that a job's never grow on."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime, timedelta

from pydantic import ValidationError
from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from surefoot.system import SystemMetrics, SystemPoint, SystemSample
from surefoot_service.store.jobs import load
from surefoot_service.store.tables import SystemSampleRow

__all__ = ["MAX_ROWS", "live", "look", "take"]

KEPT_MINUTES = 120
# of a job, however many trainers it has, and whatever it tells
MAX_ROWS = 20_000
# One that has told nothing for so long is none that lives: samples come every ten seconds, and wait for five.
_LIVE = timedelta(seconds=45)


def take(session: Session, job: str, samples: Sequence[SystemSample], now: datetime) -> None:
    """Keep these in place of what is kept of the same trainers and minute."""
    if not samples:
        return
    minute, newest = _minute(now), {sample.trainer: sample for sample in samples}
    mine = select(SystemSampleRow).where(
        SystemSampleRow.job == job, SystemSampleRow.minute == minute, SystemSampleRow.trainer.in_(newest)
    )
    kept = {row.trainer: row for row in session.scalars(mine)}
    for trainer, sample in newest.items():
        text = sample.model_dump_json(exclude={"trainer"}, exclude_none=True)
        row = kept.get(trainer)
        if row is None:
            session.add(SystemSampleRow(job=job, minute=minute, trainer=trainer, at=now, sample=text))
        else:
            row.at, row.sample = now, text
    if len(kept) < len(newest):
        session.flush()
        _forget_old(session, job, minute)


def _forget_old(session: Session, job: str, minute: int) -> None:
    first_too_many = (
        select(SystemSampleRow.minute)
        .where(SystemSampleRow.job == job)
        .order_by(SystemSampleRow.minute.desc())
        .offset(MAX_ROWS)
        .limit(1)
    )
    last_old = max(session.scalar(first_too_many) or 0, minute - KEPT_MINUTES)
    session.execute(delete(SystemSampleRow).where(SystemSampleRow.job == job, SystemSampleRow.minute <= last_old))


def look(session: Session, job: str, *, history: bool, now: datetime) -> SystemMetrics:
    """Return each trainer's newest sample, or all that are kept, oldest first. Raises NotFoundError."""
    load(session, job)
    rows = select(SystemSampleRow).where(SystemSampleRow.job == job)
    if not history:
        newest = (
            select(SystemSampleRow.trainer, func.max(SystemSampleRow.minute).label("minute"))
            .where(SystemSampleRow.job == job)
            .group_by(SystemSampleRow.trainer)
            .subquery()
        )
        rows = rows.join(
            newest,
            (newest.c.trainer == SystemSampleRow.trainer) & (newest.c.minute == SystemSampleRow.minute),
        )
    found = session.scalars(rows.order_by(SystemSampleRow.at, SystemSampleRow.trainer))
    return SystemMetrics(samples=tuple(_points(found, now)))


def live(session: Session, jobs: Sequence[str], now: datetime, most: int) -> dict[str, list[SystemPoint]]:
    """Return, by job, the newest samples of trainers that live, at most so many of each job."""
    since = now - _LIVE
    rows = select(SystemSampleRow).where(
        SystemSampleRow.job.in_(jobs), SystemSampleRow.minute >= _minute(since), SystemSampleRow.at >= since
    )
    found: dict[str, dict[str, SystemSampleRow]] = {}
    for row in session.scalars(rows.order_by(SystemSampleRow.minute)):
        found.setdefault(row.job, {})[row.trainer] = row
    return {job: list(_points(newest.values(), now))[:most] for job, newest in found.items()}


def _minute(moment: datetime) -> int:
    return int(moment.timestamp() // 60)


def _points(rows: Iterable[SystemSampleRow], now: datetime) -> Iterator[SystemPoint]:
    """What of them can be read: another version may have kept them."""
    for row in rows:
        try:
            about = {"trainer": row.trainer, "at": row.at, "live": row.at >= now - _LIVE}
            yield SystemPoint.model_validate(json.loads(row.sample) | about)
        except (ValueError, TypeError, RecursionError, ValidationError):
            continue
