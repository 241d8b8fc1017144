"""What a supervisor says, taken in: stored once each, then folded into the job by the kind of event."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import structlog
from sqlalchemy import select
from sqlalchemy.orm import Session

from surefoot.bounds import read_object
from surefoot.events import EventKind, UplinkAck, UplinkBatch
from surefoot.payloads import CheckpointData, FailedData, FinishedData, GenerationData, RestoredData, StateData
from surefoot.spec import JobState
from surefoot.stored_spec import read_spec
from surefoot.told import (
    AnyTold,
    CheckpointTold,
    FailedTold,
    FinishedTold,
    GenerationTold,
    LengthTold,
    RestoredTold,
    StateTold,
)
from surefoot_service.checkpoints.places import belongs
from surefoot_service.errors import OverError
from surefoot_service.policy.lifecycle import TransitionError
from surefoot_service.store import ledger, system, told_events
from surefoot_service.store.events import add_event, is_told
from surefoot_service.store.jobs import change_state
from surefoot_service.store.ledger import Contradiction
from surefoot_service.store.reading import has_ended, spec_of, state_of
from surefoot_service.store.tables import AttemptRow, EventSourceRow, JobRow

__all__ = ["IngestResult", "ingest", "ingest_again"]

log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class IngestResult:
    """What a batch came to."""

    ack: UplinkAck
    # whether the job's state changed
    moved: bool
    # what was new of it
    events: Sequence[AnyTold] = ()


def ingest(
    session: Session, attempt: AttemptRow, job: JobRow, batch: UplinkBatch, *, max_bytes: int, now: datetime
) -> IngestResult:
    """Store what is new in the batch of a locked job's attempt and fold it into the job; what was stored before changes nothing.

    A step that is told with another result than the stored one fails the job, and so does more than `max_bytes` in all.
    """
    before = job.state
    sources = told_events.check_sources(session, attempt, batch.events)
    contradiction = ledger.take_rows(session, job, attempt.id, batch.rows)
    events, num_bytes = told_events.store_new(session, job.id, batch.events)
    job.told_bytes += num_bytes
    for event in events:
        _fold(session, job, event, now)
    system.take(session, job.id, batch.system, now)
    if contradiction is not None:
        _contradicted(session, job, contradiction, now)
    elif job.told_bytes > max_bytes:
        _told_too_much(session, job, max_bytes, now)
    elif _is_complete(job):
        attempt.closed_at = now
    session.flush()
    ack = UplinkAck(events=told_events.stored_below(session, sources, batch.events), rows_below=job.steps_done)
    return IngestResult(ack=ack, moved=job.state != before, events=events)


def ingest_again(session: Session, attempt: AttemptRow, job: JobRow, batch: UplinkBatch) -> IngestResult:
    """Acknowledge a batch of an attempt that has told all. Raises OverError for one with anything new in it."""
    sources = {
        name: row
        for name in dict.fromkeys(event.source for event in batch.events)
        if (row := session.get(EventSourceRow, (job.id, name))) is not None and row.attempt == attempt.id
    }
    mine = all(event.source in sources for event in batch.events)
    if not (
        mine and told_events.are_stored(session, job.id, batch.events) and ledger.are_stored(session, job, batch.rows)
    ):
        raise OverError(f"attempt {attempt.id} is over: job {job.id} has {job.state}, and all of it was stored")
    ack = UplinkAck(events={name: row.stored for name, row in sources.items()}, rows_below=job.steps_done)
    return IngestResult(ack=ack, moved=False)


def _is_complete(job: JobRow) -> bool:
    """Whether nothing is missing of a job that has succeeded: its final state, and every row."""
    succeeded = job.state == JobState.SUCCEEDED and job.digest is not None
    return succeeded and job.num_steps is not None and job.steps_done >= job.num_steps


def _contradicted(session: Session, job: JobRow, found: Contradiction, now: datetime) -> None:
    """End the job: one of the two results is wrong, and nobody can say here which. The stored row stays, nothing is built on it."""
    log.error(
        "ledger_conflict",
        job=job.id,
        step=found.step,
        first=found.first.digest,
        first_by=found.first_by,
        then=found.then.digest,
        then_by=found.then_by,
    )
    message = found.what if found.first_by == found.then_by else f"{found.what}; {found.who}"
    if not is_told(session, job.id, EventKind.WARNING, {"message": message}):
        add_event(session, job.id, EventKind.WARNING, {"message": message}, now=now)
    reason = f"{found.what}; {found.who}. One of them is not this run's: neither the ledger nor the checkpoints can be trusted"
    if has_ended(job):
        job.reason = reason
    _end(session, job, reason, now)


def _told_too_much(session: Session, job: JobRow, max_bytes: int, now: datetime) -> None:
    """End the job before it fills the disk that others write to. What it has told so far stays."""
    log.error("told_too_much", job=job.id, told_bytes=job.told_bytes, max_bytes=max_bytes)
    reason = (
        f"its events and ledger rows have {job.told_bytes} bytes, and a job may have {max_bytes}: log less a step, or have "
        "SUREFOOT_MAX_TOLD_BYTES raised; its checkpoints stay, and another job can begin from them"
    )
    _end(session, job, reason, now)


def _end(session: Session, job: JobRow, reason: str, now: datetime) -> None:
    """Fail the job if it has not ended; nothing more is taken of its attempts."""
    if not has_ended(job):
        change_state(session, job, JobState.FAILED, reason=reason, now=now)
    # What runs of it is cleaned off the cluster.
    for attempt in session.scalars(select(AttemptRow).where(AttemptRow.job == job.id, AttemptRow.fenced_at.is_(None))):
        attempt.fenced_at = now


# ---- the fold: what each kind of event means for the job

# what counts although the job has ended
_AFTER_THE_END = (FinishedTold, CheckpointTold)
# what a supervisor tells while it pauses is no news of the job
_ON_THE_WAY = frozenset({JobState.STARTING, JobState.RUNNING, JobState.RECOVERING})


def _fold(session: Session, job: JobRow, event: AnyTold, now: datetime) -> None:
    if state_of(job) is None or (has_ended(job) and not isinstance(event, _AFTER_THE_END)):
        return
    match event:
        case StateTold(data=data):
            _state(session, job, data, now)
        case GenerationTold(data=data):
            _generation(job, data)
        case LengthTold(data=data):
            job.num_steps = data.num_steps or job.num_steps
        case FinishedTold(data=data):
            _finished(session, job, data, now)
        case CheckpointTold(data=data):
            _checkpoint(session, job, data, now)
        case RestoredTold(data=data):
            _restored(session, job, data)
        case FailedTold(data=data):
            _failed(session, job, data, now)


def _state(session: Session, job: JobRow, data: StateData, now: datetime) -> None:
    if job.state == JobState.PAUSING and data.state in _ON_THE_WAY:
        return  # it goes on while it is about to pause
    _move(session, job, data.state, data.reason or "", now, tell=False)


def _generation(job: JobRow, data: GenerationData) -> None:
    if data.generation < job.generation:
        return
    told = len(data.trainers) if isinstance(data.trainers, tuple) else data.trainers or 0
    spec = spec_of(job).spec
    job.generation = data.generation
    # what a job holds places for is what it may have, whatever it tells
    job.trainers = min(told, spec.most_trainers + spec.spares)
    job.num_steps = data.num_steps or job.num_steps


def _finished(session: Session, job: JobRow, data: FinishedData, now: datetime) -> None:
    job.digest = data.digest
    job.num_steps = data.steps or job.num_steps  # fewer than were asked for, where the run was stopped
    _model(session, job, data.model, now)


def _checkpoint(session: Session, job: JobRow, data: CheckpointData, now: datetime) -> None:
    if _is_its_own(session, job, "checkpoint", data.url, now):
        job.checkpoint, job.checkpoint_step = data.url, data.step
        job.progressed = True
    _model(session, job, data.model, now)


def _model(session: Session, job: JobRow, url: str | None, now: datetime) -> None:
    if url and _is_its_own(session, job, "final model", url, now):
        job.model = url


def _is_its_own(session: Session, job: JobRow, what: str, url: str, now: datetime) -> bool:
    """Whether what was told lies below the job's own place. What does not is not taken, and that is told once, not for each.

    A job that was claimed before places were noted has none; what is told of it is looked at when it is used.
    """
    place = job.checkpoint_place
    if place is None or belongs(url, place):
        return True
    log.warning("told_elsewhere", job=job.id, what=what, url=url, place=place)
    message = f"a {what} was told to lie elsewhere than below the job's own place, {place}: it is not taken"
    if not is_told(session, job.id, EventKind.WARNING, {"message": message}):
        add_event(session, job.id, EventKind.WARNING, {"message": message}, now=now)
    return False


def _restored(session: Session, job: JobRow, data: RestoredData) -> None:
    """A job that began from another's checkpoint has done its steps, as it were, and never tells their rows.

    Its later attempts begin from the same one, whatever has come to lie where the spec said: another would make it another run.
    """
    if data.first_step is None:
        return
    if not _is_of(data.url, spec_of(job).spec.restore):
        log.warning("restored_from_elsewhere", job=job.id, url=data.url)
        return
    if data.first_step > job.steps_done:
        job.steps_done = ledger.counted_on(session, job.id, data.first_step)
    # As JSON, so that what a newer version has stored beside stays.
    changed = json.dumps(read_object(job.spec) | {"restore": data.url})
    if (wrong := read_spec(changed).unreadable) and wrong != spec_of(job).unreadable:
        log.error("restore_not_recorded", job=job.id, url=data.url, error=wrong)
        return
    job.spec = changed


def _is_of(url: str, restore: str | None) -> bool:
    """Whether a checkpoint that was told is the one that the job was to begin from, or lies below what it was to begin from."""
    if restore is None:
        return False
    # A restore of an older version's may be one that is refused today.
    return url == restore or belongs(url, restore) or (not belongs(restore, restore) and url.startswith(f"{restore}/"))


def _failed(session: Session, job: JobRow, data: FailedData, now: datetime) -> None:
    job.traceback = data.traceback or job.traceback
    _move(session, job, JobState.FAILED, data.reason or "", now, tell=True)


def _move(session: Session, job: JobRow, to: JobState, reason: str, now: datetime, *, tell: bool) -> None:
    if to is JobState.SUCCEEDED and job.state == JobState.STARTING:
        # so short that running was never told
        change_state(session, job, JobState.RUNNING, reason="", now=now)
    if to is JobState.PAUSED and job.state in _ON_THE_WAY:
        change_state(session, job, JobState.PAUSING, reason="", now=now)
    try:
        change_state(session, job, to, reason=reason, now=now, tell=tell)
    except TransitionError as error:
        log.warning("state_refused", job=job.id, error=str(error))
