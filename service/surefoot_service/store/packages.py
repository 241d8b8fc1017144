"""Which packages are here, and which of them no job refers to."""

from __future__ import annotations

import re
from datetime import datetime

from sqlalchemy import select
from sqlalchemy.orm import Session

from surefoot.views import AuditAction
from surefoot_service.store import audit
from surefoot_service.store.tables import JobRow, PackageRow

__all__ = ["COLLECTION", "add", "recorded", "remove_missing", "remove_unreferenced", "size_of", "unreferenced"]

# who removes packages, in the audit
COLLECTION = "package collection"
_SHA256 = re.compile(r"[0-9a-f]{64}")


def add(session: Session, sha256: str, size: int, *, now: datetime) -> bool:
    """Record a stored package; return whether it is new. One that was uploaded again counts as new to the collection."""
    row = session.get(PackageRow, sha256)
    if row is not None:
        row.created_at = now
        return False
    session.add(PackageRow(sha256=sha256, bytes=size, created_at=now))
    return True


def size_of(session: Session, sha256: str) -> int | None:
    """Return the package's size in bytes, or None where there is none."""
    row = session.get(PackageRow, sha256)
    return None if row is None else row.bytes


def recorded(session: Session) -> set[str]:
    """Return every package that is recorded."""
    return set(session.scalars(select(PackageRow.sha256)))


def unreferenced(session: Session, before: datetime) -> list[str]:
    """Return packages that were uploaded before `before` and that no job refers to."""
    old = set(session.scalars(select(PackageRow.sha256).where(PackageRow.created_at < before)))
    if old:
        specs = select(JobRow.spec).where(JobRow.deleted_at.is_(None)).execution_options(yield_per=1000)
        for spec in session.scalars(specs):
            # whatever of a spec that cannot be read looks like a package's hash counts as one
            old.difference_update(_SHA256.findall(spec))
    return sorted(old)


def remove_unreferenced(session: Session, sha256: str, before: datetime, *, now: datetime) -> bool:
    """Forget a package, if it still was uploaded before `before` and no job refers to it; return whether it was so."""
    row = session.scalar(select(PackageRow).where(PackageRow.sha256 == sha256).with_for_update())
    if row is None or row.created_at >= before or _referring(session, sha256) is not None:
        return False
    session.delete(row)
    detail = f"{row.bytes} bytes, uploaded {row.created_at:%Y-%m-%d %H:%M} UTC; no job refers to it"
    audit.note(session, AuditAction.PACKAGE_REMOVED, sha256, by=COLLECTION, detail=detail, now=now)
    return True


def remove_missing(session: Session, sha256: str, *, now: datetime) -> bool:
    """Forget a package whose file is gone, so that it is asked for again; return whether it was recorded."""
    row = session.get(PackageRow, sha256)
    if row is None:
        return False
    session.delete(row)
    job = _referring(session, sha256)
    detail = "its file is gone" + (f"; job {job} refers to it: upload it again" if job else "")
    audit.note(session, AuditAction.PACKAGE_MISSING, sha256, by=COLLECTION, detail=detail, now=now)
    return True


def _referring(session: Session, sha256: str) -> str | None:
    query = select(JobRow.id).where(JobRow.deleted_at.is_(None), JobRow.spec.contains(sha256)).limit(1)
    return session.scalar(query)
