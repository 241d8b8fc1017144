"""What the reconciler reads and writes: the queue, attempts that may have something on the cluster, and their ends."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy.orm import Session

from surefoot.spec import JobSpec, JobState
from surefoot_service.scheduler import Candidate
from surefoot_service.store.attempts import unfinished
from surefoot_service.store.jobs import change_state, lock, with_states
from surefoot_service.store.tables import AttemptRow, JobRow

__all__ = ["Overview", "Watched", "condemn", "end_all", "look", "mark_submitted", "settle"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Watched:
    """A job's newest attempt, not yet known to be off the cluster."""

    attempt: AttemptRow
    job: JobRow
    spec: JobSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Overview:
    """All that there is to do something about."""

    queue: tuple[Candidate, ...]
    watched: tuple[Watched, ...]
    # what jobs on the cluster have reserved
    used_cpus: float
    used_gpus: float


def look(session: Session) -> Overview:
    """Return what is queued, and what may be on the cluster."""
    waiting = with_states(session, [JobState.QUEUED])
    queue = tuple(
        Candidate(job=j.id, spec=JobSpec.model_validate_json(j.spec), wanted=j.wanted_trainers) for j in waiting
    )
    watched = tuple(Watched(attempt=a, job=j, spec=JobSpec.model_validate_json(j.spec)) for a, j in unfinished(session))
    holding = [(w.spec.resources, _reserved(w)) for w in watched]
    return Overview(
        queue=queue,
        watched=watched,
        used_cpus=sum(n * each.cpus for each, n in holding),
        used_gpus=sum(n * each.gpus for each, n in holding),
    )


def _reserved(watched: Watched) -> int:
    """How many trainers a job holds places for: those it has and those it wants."""
    ended = JobState(watched.job.state).ended
    return 0 if ended else max(watched.job.trainers, watched.job.wanted_trainers)


def mark_submitted(session: Session, attempt: str, now: datetime) -> None:
    """Remember that Ray has the launcher."""
    row = session.get_one(AttemptRow, attempt)
    row.submitted_at = row.submitted_at or now
    job = lock(session, row.job)
    if job.state == JobState.STARTING and job.cancel_at is None:
        job.reason = "the launcher is on the cluster"


def condemn(
    session: Session, attempt: str, verdict: JobState | None, *, reason: str, launcher_log: str, now: datetime
) -> bool:
    """Fence the attempt; how its job ends is kept for when it is cleaned. False where its supervisor spoke first."""
    row = session.get_one(AttemptRow, attempt)
    job = lock(session, row.job)
    if JobState(job.state).ended and verdict is not None:
        return False
    row.fenced_at = row.fenced_at or now
    row.verdict, row.verdict_reason, row.verdict_log = verdict, reason, launcher_log
    return True


def settle(session: Session, attempt: str, *, note: str, now: datetime) -> str:
    """Nothing of the attempt is left on the cluster: end its job by the verdict, if there is one. Return the job."""
    row = session.get_one(AttemptRow, attempt)
    job = lock(session, row.job)
    # Not fenced by this: a supervisor that has told the end may still have rows to hand in.
    row.cleaned_at = now
    if row.verdict is not None and not JobState(job.state).ended:
        if row.verdict_log and not job.traceback:
            job.traceback = row.verdict_log
        reason = "; ".join(part for part in (row.verdict_reason, note) if part)
        change_state(session, job, JobState(row.verdict), reason=reason, now=now)
    return row.job


def end_all(session: Session, state: JobState, *, reason: str, now: datetime) -> list[str]:
    """End every job that is on the cluster, which is gone or about to be; return them. Queued jobs stay queued."""
    ended: list[str] = []
    for attempt, job in unfinished(session):
        attempt.fenced_at = attempt.fenced_at or now
        attempt.cleaned_at = now
        if not JobState(job.state).ended:
            change_state(session, job, state, reason=reason, now=now)
            ended.append(job.id)
    return ended
