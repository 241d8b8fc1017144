"""The audit: what was removed, by whom or by which rule, and when. Written in the transaction that removes, and to the log."""

from __future__ import annotations

from datetime import datetime

import structlog
from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from surefoot.views import AuditAction, AuditEntry
from surefoot_service.store.tables import AuditRow

__all__ = ["entries_after", "is_noted", "note", "trim"]

log = structlog.get_logger()


def note(session: Session, action: AuditAction, subject: str, *, by: str, detail: str = "", now: datetime) -> None:
    """Note what this transaction removes."""
    session.add(AuditRow(at=now, action=action, subject=subject, by=by[:200], detail=detail))
    session.flush()
    log.info("audit", action=action.value, subject=subject, by=by, detail=detail)


def is_noted(session: Session, action: AuditAction, subject: str) -> bool:
    """Whether this was done to the subject, as far as the audit reaches back."""
    query = select(AuditRow.n).where(AuditRow.subject == subject, AuditRow.action == action).limit(1)
    return session.scalar(query) is not None


def entries_after(session: Session, after: int, limit: int, subject: str | None) -> tuple[AuditEntry, ...]:
    """Return up to `limit` entries with n above `after`, oldest first; of one subject, if it is named."""
    query = select(AuditRow).where(AuditRow.n > after).order_by(AuditRow.n).limit(limit)
    if subject is not None:
        query = query.where(AuditRow.subject == subject)
    # an action of a newer version's is told by its name
    return tuple(
        AuditEntry(n=r.n, at=r.at, action=r.action, subject=r.subject, by=r.by, detail=r.detail)
        for r in session.scalars(query)
    )


def trim(session: Session, keep: int) -> None:
    """Forget all entries but the newest `keep`."""
    newest = session.scalar(select(func.max(AuditRow.n))) or 0
    session.execute(delete(AuditRow).where(AuditRow.n <= newest - keep))
