"""What is stored, read leniently: by whichever version it was written, one row that cannot be read never stops what is done with others."""

from __future__ import annotations

from functools import lru_cache

from pydantic import ValidationError

from surefoot.bounds import read_object
from surefoot.events import Command, CommandKind, EventKind, FaultKind, LedgerRow
from surefoot.spec import JobState
from surefoot.stored_spec import StoredSpec, read_spec
from surefoot.views import NumberedEvent
from surefoot.words import UnknownWord
from surefoot_service.store.tables import CommandRow, EventRow, JobRow

__all__ = [
    "command_of",
    "event_of",
    "has_ended",
    "ledger_row",
    "shown_row",
    "shown_state",
    "spec_json",
    "spec_of",
    "state_of",
]


def spec_of(job: JobRow) -> StoredSpec:
    """Return the job's spec, as far as this version can read it."""
    return read_spec(job.spec)


# Jobs are read again and again, and their specs hardly ever change. A long one is not remembered: bounded memory.
_REMEMBERED_CHARS = 8192


def spec_json(stored: str) -> bytes | None:
    """Return the JSON that a stored spec is shown as; None: this version cannot read all of it."""
    if len(stored) <= _REMEMBERED_CHARS:
        return _remembered(stored)
    return _spec_json(stored)


def _spec_json(stored: str) -> bytes | None:
    found = read_spec(stored)
    return None if found.unreadable else found.spec.model_dump_json().encode()


_remembered = lru_cache(maxsize=2048)(_spec_json)


def state_of(job: JobRow) -> JobState | None:
    """Return the job's state; None: this version knows no such state."""
    try:
        return JobState(job.state)
    except ValueError:
        return None


def shown_state(job: JobRow) -> JobState | UnknownWord:
    """The same, for people."""
    return state_of(job) or UnknownWord(job.state[:60])


def has_ended(job: JobRow) -> bool:
    """Whether the job has come to its end; in a state that is not known here, by the time of its end."""
    state = state_of(job)
    return job.ended_at is not None if state is None else state.ended


def event_of(row: EventRow) -> NumberedEvent:
    """Return a stored event. What of it cannot be read says so in its data."""
    kind: EventKind | UnknownWord
    try:
        kind = EventKind(row.kind)
    except ValueError:
        kind = UnknownWord(row.kind[:60])
    return NumberedEvent(seq=row.seq, source=row.source, n=row.n, at=row.at, kind=kind, data=read_object(row.data))


def ledger_row(stored: str) -> LedgerRow | None:
    """Return a stored ledger row; None: it cannot be read."""
    try:
        return LedgerRow.model_validate_json(stored)
    except ValidationError:
        return None


def shown_row(step: int, stored: str) -> str:
    """Return the JSON that a stored row goes out as: the row as it came in, or one without a result that says why."""
    if ledger_row(stored) is not None:
        return stored
    return (
        f'{{"result":{{"step":{step},"first_sample":0,"num_samples":0,"digest":"","values":{{}}}},'
        f'"circumstances":{{"generation":0,"trainers":0,"seconds":0.0,"at":0.0}},'
        f'"unreadable":"the stored row of step {step} is no ledger row"}}'
    )


def command_of(row: CommandRow) -> Command:
    """Return a stored command; a kind that only a newer version knows is passed on by its name."""
    kind: CommandKind | UnknownWord
    fault: FaultKind | UnknownWord | None
    try:
        kind = CommandKind(row.kind)
    except ValueError:
        kind = UnknownWord(row.kind[:60])
    try:
        fault = None if row.fault is None else FaultKind(row.fault)
    except ValueError:
        fault = UnknownWord(str(row.fault)[:60])
    return Command(n=row.n, kind=kind, trainers=row.trainers, fault=fault)
