"""Which packages are here."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy.orm import Session

from surefoot_service.store.tables import PackageRow

__all__ = ["add", "size_of"]


def add(session: Session, sha256: str, size: int, *, now: datetime) -> bool:
    """Record a stored package; return whether it is new."""
    if session.get(PackageRow, sha256) is not None:
        return False
    session.add(PackageRow(sha256=sha256, bytes=size, created_at=now))
    return True


def size_of(session: Session, sha256: str) -> int | None:
    """Return the package's size in bytes, or None where there is none."""
    row = session.get(PackageRow, sha256)
    return None if row is None else row.bytes
