"""Secrets in the store: set, given another value, removed. What is stored is encrypted."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from sqlalchemy import select
from sqlalchemy.orm import Session

from surefoot.secrets import SecretView
from surefoot.spec import JobState
from surefoot.views import AuditAction
from surefoot_service.encryption import KeyRing
from surefoot_service.errors import ConflictError, InvalidError, NotFoundError, UnreadableSecretError
from surefoot_service.keys import same
from surefoot_service.store import audit
from surefoot_service.store.reading import spec_of
from surefoot_service.store.tables import JobRow, SecretRow

__all__ = ["check_there", "encrypt_anew", "listing", "put", "remove", "rotate"]

_ENDED = tuple(s for s in JobState if s.ended)


def listing(session: Session) -> tuple[SecretView, ...]:
    """Return all secrets, by name."""
    return tuple(map(_view, session.scalars(select(SecretRow).order_by(SecretRow.name))))


def put(session: Session, name: str, value: str, *, keys: KeyRing, by: str, now: datetime) -> tuple[SecretView, bool]:
    """Set a secret; return it, and whether it is new. Setting the same value again changes nothing.

    Raises ConflictError where it has another value: that is to be changed on purpose.
    """
    row = _locked(session, name)
    if row is not None:
        if _has(row, value, keys):
            return _view(row), False
        raise ConflictError(f"there is a secret {name} with another value: rotate it, or remove it first")
    row = SecretRow(name=name, sealed=keys.encrypt(name, value), version=1, owner=by, created_at=now)
    session.add(row)
    audit.note(session, AuditAction.SECRET_SET, name, by=by, now=now)
    return _view(row), True


def rotate(session: Session, name: str, value: str, *, keys: KeyRing, by: str, now: datetime) -> SecretView:
    """Give a secret another value; the one that it has changes nothing. Raises NotFoundError."""
    row = _locked(session, name)
    if row is None:
        raise NotFoundError("secret", name)
    if not _has(row, value, keys):
        row.sealed, row.version, row.rotated_at = keys.encrypt(name, value), row.version + 1, now
        audit.note(session, AuditAction.SECRET_ROTATED, name, by=by, detail=f"version {row.version}", now=now)
    return _view(row)


def _has(row: SecretRow, value: str, keys: KeyRing) -> bool:
    try:
        return same(keys.decrypt(row.name, row.sealed), value)
    except UnreadableSecretError:
        return False


def remove(session: Session, name: str, *, by: str, now: datetime) -> None:
    """Remove a secret; one that was removed before is as it is asked to be.

    Raises NotFoundError for one that never was, ConflictError while a job that has not ended names it.
    """
    row = _locked(session, name)
    if row is None:
        if audit.is_noted(session, AuditAction.SECRET_REMOVED, name):
            return
        raise NotFoundError("secret", name)
    if (job := _user_of(session, name)) is not None:
        raise ConflictError(
            f"job {job} has not ended, and names the secret {name}: rotate it instead, or cancel the job first"
        )
    session.delete(row)
    audit.note(session, AuditAction.SECRET_REMOVED, name, by=by, now=now)


def _user_of(session: Session, name: str) -> str | None:
    """A job that has not ended and names the secret."""
    query = select(JobRow).where(JobRow.state.not_in(_ENDED), JobRow.deleted_at.is_(None), JobRow.spec.contains(name))
    return next((row.id for row in session.scalars(query) if name in spec_of(row).spec.secrets.values()), None)


def check_there(session: Session, names: Iterable[str]) -> None:
    """Keep a job's secrets from being removed while it is created. Raises InvalidError for one that is not there."""
    for name in sorted(set(names)):
        query = select(SecretRow.name).where(SecretRow.name == name).with_for_update(read=True)
        if session.scalar(query) is None:
            raise InvalidError(
                "body.secrets", f"there is no secret {name}: set it first, with `surefoot secret set {name}`"
            )


def encrypt_anew(session: Session, *, keys: KeyRing, by: str, now: datetime) -> int:
    """Encrypt every secret with the newest key; return how many. Raises UnreadableSecretError, and then nothing is changed."""
    rows = session.scalars(select(SecretRow).order_by(SecretRow.name).with_for_update()).all()
    for row in rows:
        row.sealed = keys.encrypt(row.name, keys.decrypt(row.name, row.sealed))
    audit.note(
        session, AuditAction.SECRETS_KEY_ROTATED, "secrets", by=by, detail=f"{len(rows)} encrypted anew", now=now
    )
    return len(rows)


def _locked(session: Session, name: str) -> SecretRow | None:
    query = select(SecretRow).where(SecretRow.name == name).with_for_update().execution_options(populate_existing=True)
    return session.scalar(query)


def _view(row: SecretRow) -> SecretView:
    return SecretView(
        name=row.name, version=row.version, owner=row.owner, created_at=row.created_at, rotated_at=row.rotated_at
    )
