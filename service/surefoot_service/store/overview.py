"""What the reconciler reads and writes: the queue, attempts that may have something on the cluster, and their ends."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy.orm import Session

from surefoot.spec import JobSpec, JobState
from surefoot_service.policy.retries import Loss, after_loss
from surefoot_service.scheduler.fifo import Candidate
from surefoot_service.store.attempts import lock_with, unfinished
from surefoot_service.store.jobs import change_state, with_states
from surefoot_service.store.reading import spec_of, state_of
from surefoot_service.store.tables import AttemptRow, JobRow

__all__ = [
    "Overview",
    "Watched",
    "condemn",
    "end_all",
    "give_back",
    "is_on_cluster",
    "look",
    "mark_submitted",
    "settle",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Watched:
    """A job's newest attempt, not yet known to be off the cluster."""

    attempt: AttemptRow
    job: JobRow
    # as far as it can be read
    spec: JobSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Overview:
    """All that there is to do something about."""

    queue: tuple[Candidate, ...]
    watched: tuple[Watched, ...]
    # what jobs on the cluster have reserved
    used_cpus: float
    used_gpus: float
    # how long until the next job that waits to be tried again may start; None: none waits
    next_retry: timedelta | None = None
    # queued jobs that this version cannot read whole, each with what is wrong: they are not started, as they would be others
    unreadable: tuple[tuple[str, str], ...] = ()


def look(session: Session, now: datetime) -> Overview:
    """Return what is queued and may start, and what may be on the cluster."""
    watched = tuple(Watched(attempt=a, job=j, spec=spec_of(j).spec) for a, j in unfinished(session) if _is_for_us(a, j))
    # A job that was resumed starts when its last attempt is off the cluster.
    there = {w.job.id for w in watched}
    waiting = [j for j in with_states(session, [JobState.QUEUED]) if j.id not in there]
    specs = {j.id: spec_of(j) for j in waiting}
    readable = [j for j in waiting if not specs[j.id].unreadable]
    queue = tuple(
        Candidate(job=j.id, spec=specs[j.id].spec, wanted=j.wanted_trainers)
        for j in readable
        if j.retry_at is None or j.retry_at <= now
    )
    later = [j.retry_at - now for j in readable if j.retry_at is not None and j.retry_at > now]
    holding = [(w.spec.resources, _reserved(w)) for w in watched]
    return Overview(
        queue=queue,
        watched=watched,
        used_cpus=sum(n * each.cpus for each, n in holding),
        used_gpus=sum(n * each.gpus for each, n in holding),
        next_retry=min(later, default=None),
        unreadable=tuple((j.id, specs[j.id].unreadable) for j in waiting if specs[j.id].unreadable),
    )


def _is_for_us(attempt: AttemptRow, job: JobRow) -> bool:
    """Whether this version can judge the attempt. In a state that it does not know only what was fenced is to be cleaned up."""
    return state_of(job) is not None or attempt.fenced_at is not None


def _reserved(watched: Watched) -> int:
    """How many trainers a job holds places for: those it has and those it wants."""
    return max(watched.job.trainers, watched.job.wanted_trainers) if is_on_cluster(watched.job) else 0


def is_on_cluster(job: JobRow) -> bool:
    """Whether the job's present attempt is to train, or does."""
    state = state_of(job)
    return state is not None and not state.ended and state not in (JobState.QUEUED, JobState.PAUSED)


def mark_submitted(session: Session, attempt: str, now: datetime) -> None:
    """Remember that Ray has the launcher."""
    row, job = lock_with(session, attempt)
    row.submitted_at = row.submitted_at or now
    if job.state == JobState.STARTING and job.cancel_at is None:
        job.reason = "the launcher is on the cluster"


def give_back(session: Session, attempt: str, *, reason: str, now: datetime) -> bool:
    """Queue a job anew that has not trained in its present attempt, which is fenced; it is no loss. False: it trains by now."""
    row, job = lock_with(session, attempt)
    if job.state != JobState.STARTING or row.fenced_at is not None or job.cancel_at is not None:
        return False
    row.fenced_at = now
    change_state(session, job, JobState.QUEUED, reason=reason, now=now)
    return True


def condemn(
    session: Session, watched: Watched, verdict: JobState | None, *, reason: str, launcher_log: str, now: datetime
) -> bool:
    """Fence the attempt; what becomes of its job is kept for when it is cleaned.

    False where its supervisor has told the end, or its first word, since it was judged: then it is to be judged anew.
    """
    row, job = lock_with(session, watched.attempt.id)
    if verdict is not None and not is_on_cluster(job):
        return False
    if watched.attempt.spoke_at is None and row.spoke_at is not None:
        return False
    row.fenced_at = row.fenced_at or now
    row.verdict, row.verdict_reason, row.verdict_log = verdict, reason, launcher_log
    return True


def settle(session: Session, attempt: str, *, note: str, now: datetime) -> str:
    """Nothing of the attempt is left on the cluster: its job becomes what the verdict says, if there is one. Return the job."""
    row, job = lock_with(session, attempt)
    # Not fenced by this: a supervisor that has told the end may still have rows to hand in.
    row.cleaned_at = now
    if (row.verdict is not None or row.fenced_at is not None) and is_on_cluster(job):
        reason = "; ".join(part for part in (row.verdict_reason or "its attempt was fenced", note) if part)
        to = _verdict(row)
        if to is JobState.QUEUED:
            to, reason = _count_loss(job, reason, now)
        if to is JobState.FAILED and row.verdict_log and not job.traceback:
            job.traceback = row.verdict_log
        change_state(session, job, to, reason=reason, now=now)
    return row.job


def _verdict(attempt: AttemptRow) -> JobState:
    """What the job is to be: tried again, where nothing was said; a verdict that this version does not know ends it."""
    try:
        return JobState(attempt.verdict or JobState.QUEUED)
    except ValueError:
        return JobState.FAILED


def _count_loss(job: JobRow, reason: str, now: datetime) -> tuple[JobState, str]:
    """Count an attempt as lost; return what its job becomes, and why."""
    loss = Loss(
        state=state_of(job) or JobState.RUNNING,
        cancelling=job.cancel_at is not None,
        reason=reason,
        losses=job.losses,
        progressed=job.progressed,
        max_failures=spec_of(job).spec.max_failures,
        now=now,
    )
    sequel = after_loss(loss)
    job.losses, job.retry_at = sequel.losses, sequel.retry_at
    return sequel.state, sequel.reason


def end_all(session: Session, state: JobState, *, reason: str, now: datetime) -> list[str]:
    """End every job that is on the cluster, which is gone or about to be; return them. Queued and paused jobs stay."""
    ended: list[str] = []
    for name in [attempt.id for attempt, _ in unfinished(session)]:
        attempt, job = lock_with(session, name)
        attempt.fenced_at = attempt.fenced_at or now
        attempt.cleaned_at = now
        if is_on_cluster(job):
            change_state(session, job, state, reason=reason, now=now)
            ended.append(job.id)
    return ended
