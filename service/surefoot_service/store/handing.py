"""Secrets on their way to trainers: told to the attempts of jobs that name them, and audited."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import select
from sqlalchemy.orm import Session

from surefoot.views import AuditAction
from surefoot_service.encryption import KeyRing
from surefoot_service.errors import ConflictError, OverError
from surefoot_service.store import audit
from surefoot_service.store.attempts import authorize, lock_with
from surefoot_service.store.reading import has_ended, spec_of
from surefoot_service.store.tables import AuditRow, SecretRow

__all__ = ["hand"]


def hand(session: Session, attempt: str, token: str, *, keys: KeyRing, now: datetime) -> dict[str, str]:
    """Return the values that an attempt's trainers are to find in their environment, by variable; each handing is audited once.

    Raises as `authorize` does, OverError once the job has ended, UnreadableSecretError, NotFoundError.
    """
    authorize(session, attempt, token)
    row, job = lock_with(session, attempt)
    authorize(session, attempt, token)
    if has_ended(job):
        raise OverError(f"attempt {attempt} is over: job {job.id} is {job.state}")
    return {variable: _handed(session, name, row.id, keys, now) for variable, name in spec_of(job).spec.secrets.items()}


def _handed(session: Session, name: str, attempt: str, keys: KeyRing, now: datetime) -> str:
    row = session.get(SecretRow, name)
    if row is None:
        raise ConflictError(f"the secret {name} that the job names is gone: set it again")
    value, detail = keys.decrypt(name, row.sealed), f"version {row.version}"
    known = select(AuditRow.n).where(
        AuditRow.subject == name,
        AuditRow.action == AuditAction.SECRET_HANDED,
        AuditRow.by == attempt,
        AuditRow.detail == detail,
    )
    if session.scalar(known.limit(1)) is None:
        audit.note(session, AuditAction.SECRET_HANDED, name, by=attempt, detail=detail, now=now)
    return value
