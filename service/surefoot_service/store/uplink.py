"""What a supervisor says, taken in: stored once each, then folded into the job by a table of kinds."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import structlog
from pydantic import JsonValue
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from surefoot.events import Event, EventKind, LedgerRow, UplinkAck, UplinkBatch
from surefoot.spec import JobSpec, JobState
from surefoot_service.lifecycle import TransitionError
from surefoot_service.store.events import add_event, is_told
from surefoot_service.store.jobs import change_state, lock
from surefoot_service.store.tables import EventRow, JobRow, StepRow

__all__ = ["FOLDS", "Taken", "take"]

log = structlog.get_logger()

# rows looked at a time when counting on without a gap
_PAGE = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """What a batch came to."""

    ack: UplinkAck
    # whether the job's state changed
    moved: bool


def take(session: Session, job: str, batch: UplinkBatch, *, now: datetime) -> Taken:
    """Store what is new in the batch and fold it into the job; what was stored before changes nothing."""
    row = lock(session, job)
    before = row.state
    _take_rows(session, row, batch.rows, now)
    for event in _new_events(session, job, batch.events):
        _fold(session, row, event, now)
    session.flush()
    sources = dict.fromkeys(e.source for e in batch.events)
    ack = UplinkAck(events={s: _stored_without_gap(session, job, s) for s in sources}, rows_below=row.steps_done)
    return Taken(ack=ack, moved=row.state != before)


def _new_events(session: Session, job: str, events: Iterable[Event]) -> list[Event]:
    """Store the events that are not yet, in their order; return them."""
    wanted: dict[tuple[str, int], Event] = {}
    for event in events:
        wanted.setdefault((event.source, event.n), _writable(event))
    by_source: dict[str, list[int]] = {}
    for source, n in wanted:
        by_source.setdefault(source, []).append(n)
    for source, numbers in by_source.items():
        known = select(EventRow.n).where(
            EventRow.job == job, EventRow.source == source, EventRow.n.between(min(numbers), max(numbers))
        )
        for n in session.scalars(known):
            wanted.pop((source, n), None)
    for event in wanted.values():
        data = json.dumps(event.data)
        session.add(EventRow(job=job, source=event.source, n=event.n, at=event.at, kind=event.kind, data=data))
        # one by one, so that seq has the order in which they were told
        session.flush()
    return list(wanted.values())


def _writable(event: Event) -> Event:
    """The event with text that every database takes: a traceback can hold bytes that are no text, or zeros."""
    text = json.dumps(event.data, ensure_ascii=False).encode("utf-8", "replace").decode()
    return event.model_copy(update={"data": json.loads(text.replace("\\u0000", ""))})


def _stored_without_gap(session: Session, job: str, source: str) -> int:
    mine = (EventRow.job == job, EventRow.source == source)
    count, last = session.execute(select(func.count(), func.max(EventRow.n)).where(*mine)).one()
    if count == (last or 0):
        return int(count)
    stored = 0
    for n in session.scalars(select(EventRow.n).where(*mine).order_by(EventRow.n)):
        if n != stored + 1:
            break
        stored = n
    return stored


def _take_rows(session: Session, job: JobRow, rows: Iterable[LedgerRow], now: datetime) -> None:
    wanted = {r.result.step: r for r in reversed(list(rows))}
    if not wanted:
        return
    known = select(StepRow).where(StepRow.job == job.id, StepRow.step.between(min(wanted), max(wanted)))
    for stored in session.scalars(known):
        again = wanted.pop(stored.step, None)
        if again is not None:
            _compare(session, job.id, stored, again, now)
    if wanted:
        job.progressed = True
    session.add_all(StepRow(job=job.id, step=step, row=row.model_dump_json()) for step, row in wanted.items())
    session.flush()
    job.steps_done = _counted_on(session, job.id, job.steps_done)


def _compare(session: Session, job: str, stored: StepRow, again: LedgerRow, now: datetime) -> None:
    """A step told twice is the same step; were it not, the promise would be broken, and that is not to pass unseen."""
    first = LedgerRow.model_validate_json(stored.row).result
    then = again.result
    if first.canonical() == then.canonical():
        return
    log.error("ledger_conflict", job=job, step=stored.step, first=first.digest, then=then.digest)
    message = f"step {stored.step} was told twice with different results: {first.digest}, then {then.digest}"
    if first.digest == then.digest:
        message += (
            f" (the logged values or samples differ: {first.canonical().decode()}, then {then.canonical().decode()})"
        )
    if not is_told(session, job, EventKind.WARNING, {"message": message}):
        add_event(session, job, EventKind.WARNING, {"message": message}, now=now)


def _counted_on(session: Session, job: str, done: int) -> int:
    while True:
        query = select(StepRow.step).where(StepRow.job == job, StepRow.step >= done).order_by(StepRow.step).limit(_PAGE)
        steps = session.scalars(query).all()
        start = done
        for step in steps:
            if step != done:
                return done
            done += 1
        if done - start < _PAGE:
            return done


# ---- the fold: what each kind of event means for the job

# what counts although the job has ended
_AFTER_THE_END = frozenset({EventKind.FINISHED, EventKind.CHECKPOINT})
# what a supervisor tells while it pauses is no news of the job
_ON_THE_WAY = frozenset({JobState.STARTING, JobState.RUNNING, JobState.RECOVERING})

Data = Mapping[str, JsonValue]
Fold = Callable[[Session, JobRow, Data, datetime], None]


def _state(session: Session, row: JobRow, data: Data, now: datetime) -> None:
    to = JobState(str(data["state"]))
    if to is JobState.QUEUED:
        raise ValueError("only the control plane queues a job")
    if row.state == JobState.PAUSING and to in _ON_THE_WAY:
        return  # it goes on while it is about to pause
    _move(session, row, to, str(data.get("reason") or ""), now, tell=False)


def _generation(_session: Session, row: JobRow, data: Data, _now: datetime) -> None:
    number = _int(data, "generation")
    if number is None or number < row.generation:
        return
    row.generation = number
    row.trainers = _count(data, "trainers")
    row.num_steps = _int(data, "num_steps") or row.num_steps


def _length(_session: Session, row: JobRow, data: Data, _now: datetime) -> None:
    row.num_steps = _int(data, "num_steps") or row.num_steps


def _finished(_session: Session, row: JobRow, data: Data, _now: datetime) -> None:
    row.digest = str(data["digest"])[:64]
    row.num_steps = _int(data, "steps") or row.num_steps  # fewer than were asked for, where the run was stopped
    _model(row, data)


def _checkpoint(_session: Session, row: JobRow, data: Data, _now: datetime) -> None:
    row.checkpoint, row.checkpoint_step = str(data["url"]), _int(data, "step")
    row.progressed = True
    _model(row, data)


def _restored(session: Session, row: JobRow, data: Data, _now: datetime) -> None:
    """A job that began from another's checkpoint has done its steps, as it were, and never tells their rows.

    Its later attempts begin from the same one, whatever has come to lie where the spec said: another would make it another run.
    """
    first = _int(data, "first_step")
    if first is None:
        return
    if first > row.steps_done:
        row.steps_done = _counted_on(session, row.id, first)
    spec = JobSpec.model_validate_json(row.spec)
    row.spec = spec.model_copy(update={"restore": str(data["url"])}).model_dump_json()


def _model(row: JobRow, data: Data) -> None:
    if data.get("model"):
        row.model = str(data["model"])


def _failed(session: Session, row: JobRow, data: Data, now: datetime) -> None:
    if data.get("traceback"):
        row.traceback = str(data["traceback"])
    _move(session, row, JobState.FAILED, str(data.get("reason") or ""), now, tell=True)


FOLDS: Mapping[EventKind, Fold] = {
    EventKind.STATE: _state,
    EventKind.GENERATION: _generation,
    EventKind.LENGTH: _length,
    EventKind.FINISHED: _finished,
    EventKind.CHECKPOINT: _checkpoint,
    EventKind.RESTORED: _restored,
    EventKind.FAILED: _failed,
}


def _fold(session: Session, row: JobRow, event: Event, now: datetime) -> None:
    fold = FOLDS.get(event.kind)
    if fold is None:
        return
    if JobState(row.state).ended and event.kind not in _AFTER_THE_END:
        return
    try:
        fold(session, row, event.data, now)
    except (KeyError, ValueError) as error:
        # It is stored and will be acknowledged: sent again, it would be no better.
        log.warning(
            "event_not_understood", job=row.id, source=event.source, n=event.n, kind=event.kind, error=repr(error)
        )


def _move(session: Session, row: JobRow, to: JobState, reason: str, now: datetime, *, tell: bool) -> None:
    if to is JobState.SUCCEEDED and row.state == JobState.STARTING:
        # so short that running was never told
        change_state(session, row, JobState.RUNNING, reason="", now=now)
    if to is JobState.PAUSED and row.state in _ON_THE_WAY:
        change_state(session, row, JobState.PAUSING, reason="", now=now)
    try:
        change_state(session, row, to, reason=reason, now=now, tell=tell)
    except TransitionError as error:
        log.warning("state_refused", job=row.id, error=str(error))


def _count(data: Data, name: str) -> int:
    """How many are told, be it as a number or as their names."""
    value = data.get(name)
    return len(value) if isinstance(value, list) else _int(data, name) or 0


def _int(data: Data, name: str) -> int | None:
    value: Any = data.get(name)
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**31 else None
