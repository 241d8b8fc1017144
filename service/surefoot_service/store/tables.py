"""The tables. Written for SQLite and Postgres alike; migrations/ makes them."""

from __future__ import annotations

from datetime import datetime
from typing import Any, ClassVar

from sqlalchemy import ForeignKey, Index, UniqueConstraint
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from surefoot_service.store.columns import LongWords, Number, UtcDateTime, Whole, Words

__all__ = [
    "AttemptRow",
    "AuditRow",
    "Base",
    "CommandRow",
    "EventRow",
    "EventSourceRow",
    "JobRow",
    "LogChunkRow",
    "LogSourceRow",
    "PackageRow",
    "SecretRow",
    "StepRow",
    "SystemSampleRow",
]


class Base(DeclarativeBase):
    type_annotation_map: ClassVar[dict[Any, Any]] = {int: Whole}


class JobRow(Base):
    """A job as it is now. Its history is its events."""

    __tablename__ = "jobs"
    __table_args__ = (
        Index("ix_jobs_state", "state", "number"),
        Index("ix_jobs_traceparent", "traceparent"),
        {"sqlite_autoincrement": True},
    )

    # the order of the queue
    number: Mapped[int] = mapped_column(Number, primary_key=True)
    id: Mapped[str] = mapped_column(Words(40), unique=True)
    # JobSpec as JSON
    spec: Mapped[str] = mapped_column(LongWords)
    state: Mapped[str] = mapped_column(Words(20))
    reason: Mapped[str] = mapped_column(LongWords, default="")
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)
    started_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    ended_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    cancel_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    trainers: Mapped[int] = mapped_column(default=0)
    wanted_trainers: Mapped[int] = mapped_column()
    generation: Mapped[int] = mapped_column(Number, default=0)
    # every step below it is in the ledger
    steps_done: Mapped[int] = mapped_column(Number, default=0)
    num_steps: Mapped[int | None] = mapped_column(Number)
    digest: Mapped[str | None] = mapped_column(Words(64))
    traceback: Mapped[str | None] = mapped_column(LongWords)
    idempotency_key: Mapped[str | None] = mapped_column(Words(200), unique=True)
    # attempts lost in a row, without a ledger row or a checkpoint in between
    losses: Mapped[int] = mapped_column(default=0)
    # whether the present attempt has brought a ledger row or a checkpoint
    progressed: Mapped[bool] = mapped_column(default=False)
    # not to be started before
    retry_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    # the newest durable checkpoint, the step that it goes on with, and where the final model lies
    checkpoint: Mapped[str | None] = mapped_column(LongWords)
    checkpoint_step: Mapped[int | None] = mapped_column(Number)
    model: Mapped[str | None] = mapped_column(LongWords)
    # from then on there is no such job: what is left of it is being removed (see store/removal.py)
    deleted_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    # its checkpoints are to go too
    delete_checkpoints: Mapped[bool] = mapped_column(default=False)
    # where all its checkpoints lie, as its first attempt was told; None: none was yet
    checkpoint_place: Mapped[str | None] = mapped_column(LongWords)
    # bytes of events and ledger rows that its attempts have told, as they are stored
    told_bytes: Mapped[int] = mapped_column(Number, default=0)
    # the trace that its spans belong to, as a W3C traceparent (its parent is 0 where there is none), until they are exported
    traceparent: Mapped[str | None] = mapped_column(Words(60))
    # when the request that submitted it came in; None: that is not traced
    asked_at: Mapped[datetime | None] = mapped_column(UtcDateTime)


class AttemptRow(Base):
    """One launch of a job on the cluster."""

    __tablename__ = "attempts"
    __table_args__ = (UniqueConstraint("job", "n"),)

    id: Mapped[str] = mapped_column(Words(60), primary_key=True)
    job: Mapped[str] = mapped_column(ForeignKey("jobs.id"))
    n: Mapped[int] = mapped_column()
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)
    # of the claim code; what is kept of secrets are hashes (sha256, hex)
    claim_hash: Mapped[str] = mapped_column(Words(64))
    claimed_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    token_hash: Mapped[str | None] = mapped_column(Words(64))
    # of the Ray job that is its launcher
    submission_id: Mapped[str] = mapped_column(Words(80))
    # when Ray confirmed the submission
    submitted_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    # Ray's session, so that a cluster that was replaced by another is noticed
    session: Mapped[str | None] = mapped_column(Words(200))
    # first word of its supervisor
    spoke_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    # from then on nothing it says counts
    fenced_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    # what the job is to be once the cluster is cleaned of this attempt (queued: tried again, if it may be);
    # None: its supervisor will tell
    verdict: Mapped[str | None] = mapped_column(Words(20))
    verdict_reason: Mapped[str | None] = mapped_column(LongWords)
    # what the launcher printed last
    verdict_log: Mapped[str | None] = mapped_column(LongWords)
    # the job's commands up to this one were for the attempts before
    commands_before: Mapped[int] = mapped_column(default=0)
    # nothing of it is left on the cluster
    cleaned_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    # its job has succeeded and all of it is stored: its last batch may come again, nothing new may
    closed_at: Mapped[datetime | None] = mapped_column(UtcDateTime)


class EventRow(Base):
    """One event of a job; (job, source, n) is its natural key."""

    __tablename__ = "events"
    __table_args__ = (
        UniqueConstraint("job", "source", "n"),
        Index("ix_events_job_seq", "job", "seq"),
        {"sqlite_autoincrement": True},
    )

    seq: Mapped[int] = mapped_column(Number, primary_key=True)
    job: Mapped[str] = mapped_column(ForeignKey("jobs.id"))
    source: Mapped[str] = mapped_column(Words(100))
    n: Mapped[int] = mapped_column(Number)
    at: Mapped[datetime] = mapped_column(UtcDateTime)
    kind: Mapped[str] = mapped_column(Words(30))
    # JSON
    data: Mapped[str] = mapped_column(LongWords)


class EventSourceRow(Base):
    """How far the events of one source are stored, so that nobody has to count them again."""

    __tablename__ = "event_sources"

    job: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    source: Mapped[str] = mapped_column(Words(100), primary_key=True)
    # the only one that may tell events of this source
    attempt: Mapped[str] = mapped_column(Words(60))
    # every event with n up to and including this is stored; there may be more
    stored: Mapped[int] = mapped_column(Number, default=0)


class StepRow(Base):
    """A ledger row, kept as the JSON it came as."""

    __tablename__ = "ledger"

    job: Mapped[str] = mapped_column(ForeignKey("jobs.id"), primary_key=True)
    step: Mapped[int] = mapped_column(Number, primary_key=True, autoincrement=False)
    row: Mapped[str] = mapped_column(LongWords)
    # who told it; None: it was stored before this was noted
    attempt: Mapped[str | None] = mapped_column(Words(60))


class CommandRow(Base):
    """What a job's supervisor is asked to do."""

    __tablename__ = "commands"

    job: Mapped[str] = mapped_column(ForeignKey("jobs.id"), primary_key=True)
    n: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    kind: Mapped[str] = mapped_column(Words(20))
    trainers: Mapped[int | None] = mapped_column()
    fault: Mapped[str | None] = mapped_column(Words(20))
    # when it was first handed to a supervisor; kept of faults, which are done once at most
    told_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    at: Mapped[datetime] = mapped_column(UtcDateTime)


class PackageRow(Base):
    """A stored code package; its bytes are a file named by its hash."""

    __tablename__ = "packages"

    sha256: Mapped[str] = mapped_column(Words(64), primary_key=True)
    bytes: Mapped[int] = mapped_column(Number)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)


class LogChunkRow(Base):
    """A file of printed lines: the index of what `surefoot_service.logs` keeps, never the lines."""

    __tablename__ = "log_chunks"

    job: Mapped[str] = mapped_column(ForeignKey("jobs.id"), primary_key=True)
    # the number of its first line among the job's
    first: Mapped[int] = mapped_column(Number, primary_key=True, autoincrement=False)
    lines: Mapped[int] = mapped_column(Number)
    # in the file, and as text
    num_bytes: Mapped[int] = mapped_column(Number)
    text_bytes: Mapped[int] = mapped_column(Number)
    # of its newest line
    at: Mapped[datetime] = mapped_column(UtcDateTime)
    name: Mapped[str] = mapped_column(Words(100))


class LogSourceRow(Base):
    """How far the lines of one collector are stored."""

    __tablename__ = "log_sources"

    job: Mapped[str] = mapped_column(ForeignKey("jobs.id"), primary_key=True)
    # with its attempt: "ab2cd3ef4g-2/t0-1f0c52aa"
    source: Mapped[str] = mapped_column(Words(120), primary_key=True)
    # lines with numbers below this are stored
    below: Mapped[int] = mapped_column(Number)
    # whether it has said that its process has ended
    over: Mapped[bool] = mapped_column()


class SystemSampleRow(Base):
    """What a trainer used in a minute: the newest sample that it told then."""

    __tablename__ = "system_samples"

    job: Mapped[str] = mapped_column(ForeignKey("jobs.id"), primary_key=True)
    # since the epoch, by the control plane's clock
    minute: Mapped[int] = mapped_column(Number, primary_key=True, autoincrement=False)
    trainer: Mapped[str] = mapped_column(Words(60), primary_key=True)
    at: Mapped[datetime] = mapped_column(UtcDateTime)
    # JSON
    sample: Mapped[str] = mapped_column(LongWords)


class SecretRow(Base):
    """A secret. Its value is here only as it is encrypted (see surefoot_service/encryption.py)."""

    __tablename__ = "secrets"

    name: Mapped[str] = mapped_column(Words(64), primary_key=True)
    sealed: Mapped[str] = mapped_column(LongWords)
    # counts its values, from 1
    version: Mapped[int] = mapped_column()
    owner: Mapped[str] = mapped_column(Words(200))
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)
    rotated_at: Mapped[datetime | None] = mapped_column(UtcDateTime)


class AuditRow(Base):
    """What was removed or done with a secret, by whom or by which rule, and when. It refers to nothing, as it outlives what it is about."""

    __tablename__ = "audit"
    __table_args__ = (Index("ix_audit_subject", "subject", "action"), {"sqlite_autoincrement": True})

    n: Mapped[int] = mapped_column(Number, primary_key=True)
    at: Mapped[datetime] = mapped_column(UtcDateTime)
    action: Mapped[str] = mapped_column(Words(40))
    # a job's id, a package's hash, or a secret's name
    subject: Mapped[str] = mapped_column(Words(64))
    by: Mapped[str] = mapped_column(Words(200))
    # a sentence
    detail: Mapped[str] = mapped_column(LongWords, default="")
