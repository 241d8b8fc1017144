"""Jobs as they are shown, straight to JSON: what is asked for most often is read by one prepared statement, and dumped once.

The JSON is exactly that of `JobView`; specs that were read before are not read again.
"""

from __future__ import annotations

from typing import Any, cast

from pydantic import BaseModel, create_model
from sqlalchemy import ColumnElement, Row, bindparam, func, select
from sqlalchemy.orm import Session

from surefoot.spec import JobState
from surefoot.views import JobView
from surefoot_service.errors import NotFoundError
from surefoot_service.store.columns import NoNumber
from surefoot_service.store.jobs import load, view_of
from surefoot_service.store.reading import spec_json
from surefoot_service.store.tables import AttemptRow, JobRow

__all__ = ["job_json", "jobs_json"]

_JOBS, _ATTEMPTS = JobRow.__table__, AttemptRow.__table__
_STATES = frozenset(JobState)
# as long as a job's id can be (JOB_PATTERN)
_ID_CHARS = 40
# what is of no interest to whoever is shown a job
_HIDDEN = frozenset(
    {"number", "cancel_at", "idempotency_key", "losses", "progressed", "retry_at", "deleted_at", "delete_checkpoints"}
)


# A view without its spec: a spec inside of a model is checked again whenever the model is made.
_Facts: type[BaseModel] = create_model(
    "_Facts",
    __config__=JobView.model_config,
    **cast(dict[str, Any], {n: (f.annotation, f) for n, f in JobView.model_fields.items() if n != "spec"}),
)


def _newest(column: Any) -> ColumnElement[Any]:
    mine = select(column).where(_ATTEMPTS.c.job == _JOBS.c.id)
    return mine.order_by(_ATTEMPTS.c.n.desc()).limit(1).correlate(_JOBS).scalar_subquery()


_SHOWN = select(
    *(c for c in _JOBS.c if c.name not in _HIDDEN),
    _newest(_ATTEMPTS.c.id).label("attempt"),
    func.coalesce(_newest(_ATTEMPTS.c.n), 0).label("attempts"),
).where(_JOBS.c.deleted_at.is_(None))
_ONE = _SHOWN.where(_JOBS.c.id == bindparam("job"))
_MANY = _SHOWN.order_by(_JOBS.c.number.desc()).limit(bindparam("most"))


def job_json(session: Session, job: str) -> bytes:
    """Return the job as users see it, as JSON; raises NotFoundError."""
    row = session.execute(_ONE, {"job": job}).one_or_none()
    if row is None:
        raise NotFoundError("job", job)
    return _json(row)


def jobs_json(
    session: Session, *, state: JobState | None, limit: int, before: str | None = None, beginning: str | None = None
) -> bytes:
    """Return a JobList as JSON: jobs, newest first, older than the job `before`, whose ids begin with `beginning`."""
    query, values = _MANY, dict[str, Any](most=limit)
    if state is not None:
        query, values = query.where(_JOBS.c.state == bindparam("state")), values | {"state": state}
    if before is not None:
        values |= {"below": load(session, before).number}
        query = query.where(_JOBS.c.number < bindparam("below"))
    if beginning is not None:
        # by the index of ids: none sorts behind one that goes on in the last of their letters, in whatever order a database has
        values |= {"beginning": beginning, "last": beginning.ljust(_ID_CHARS, "z")}
        query = query.where(_JOBS.c.id.between(bindparam("beginning"), bindparam("last")))
        query = query.where(func.substr(_JOBS.c.id, 1, len(beginning)) == bindparam("beginning"))
    return b'{"jobs":[' + b",".join(map(_json, session.execute(query, values))) + b"]}"


def _json(row: Row[*tuple[Any, ...]]) -> bytes:
    spec = spec_json(row.spec)
    if spec is not None and row.state in _STATES and not any(isinstance(value, NoNumber) for value in row):
        facts = _Facts.model_validate(dict(row._mapping)).model_dump_json().encode()
        return b'{"spec":%b,%b' % (spec, facts[1:])
    # It has the columns that a view is made of, under the same names.
    return view_of(cast(JobRow, row), row.attempt, row.attempts).model_dump_json().encode()
