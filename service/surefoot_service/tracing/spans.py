"""The spans of a job from its request to its first step, made of what is stored. Pure: the same facts make the same spans.

job                     the request, until the first step is committed, or the job ends before it
├─ submit               the request itself
├─ queued               until an attempt is made
└─ start                an attempt: until the first step is committed, or the attempt is lost
   ├─ launcher submitted
   ├─ claimed           the launcher runs on the cluster
   ├─ supervisor spoke
   ├─ trainers ready
   └─ first step

`queued` and `start` come again for each attempt that was lost before. Clocks of nodes differ: nothing ends before it began, or after
its parent.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from surefoot.events import Event, EventKind
from surefoot.spec import JobState
from surefoot_service.tracing.context import TraceContext, id_of

__all__ = ["KINDS", "AttemptFacts", "JobFacts", "SpanFacts", "ready_at", "spans_of"]

# the kinds of event that `ready_at` looks at
KINDS = (EventKind.TRAINER_READY, EventKind.GENERATION)

Attributes = Mapping[str, str | int]


@dataclass(frozen=True, slots=True, kw_only=True)
class JobFacts:
    """A job, as far as its spans tell of it: nothing of its config, environment or secrets."""

    id: str
    name: str
    entrypoint: str
    trainers: int
    state: str
    context: TraceContext
    # when its request came in
    asked_at: datetime
    # when it was queued
    created_at: datetime
    ended_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptFacts:
    """An attempt of the job; what has not happened is None."""

    id: str
    number: int
    created_at: datetime
    submitted_at: datetime | None = None
    claimed_at: datetime | None = None
    spoke_at: datetime | None = None
    ready_at: datetime | None = None
    # when the job's first step was committed, if it was in this attempt
    first_step_at: datetime | None = None
    # when it was known to be over
    ended_at: datetime | None = None
    # given up, rather than ended by itself
    lost: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class SpanFacts:
    """One span."""

    name: str
    trace_id: int
    span_id: int
    # None: it is the trace's root
    parent_id: int | None
    begin: datetime
    end: datetime
    failed: bool = False
    attributes: Attributes = field(default_factory=dict)


def ready_at(events: Sequence[Event]) -> datetime | None:
    """Return when the last trainer that the first generation waited for was ready, of an attempt's events in order; None: none was."""
    found: datetime | None = None
    for event in events:
        if event.kind is EventKind.GENERATION:
            return found or event.at
        if event.kind is EventKind.TRAINER_READY:
            found = event.at
    return found


def spans_of(job: JobFacts, attempts: Sequence[AttemptFacts], until: datetime) -> tuple[SpanFacts, ...]:
    """Return the spans of a job whose first step is committed, or that has ended; parents come before their children.

    `attempts`: in order, up to the one that committed the first step. `until`: now; whatever is told to be later was then.
    """
    root, begin = id_of(8, job.id, "job"), job.asked_at
    at = _within(job.created_at, begin, until)
    made = [_span(job, "submit", root, begin, at)]
    for place, attempt in enumerate(attempts):
        last = place + 1 == len(attempts)
        start = _within(attempt.created_at, at, until)
        made.append(_span(job, "queued", root, at, start, key=attempt.id))
        bound = (job.ended_at or until) if last else attempts[place + 1].created_at
        end = _within(attempt.first_step_at or min(attempt.ended_at or bound, bound), start, until)
        made.extend(_start(job, attempt, root, start, end, failed=_has_failed(job, attempt, last=last)))
        at = end
    if not (attempts and attempts[-1].first_step_at) and job.ended_at is not None and job.ended_at > at:
        # it waited for another attempt, or for its first, when it ended
        ended = _within(job.ended_at, at, until)
        made.append(_span(job, "queued", root, at, ended, key="last"))
        at = ended
    return (_root(job, root, begin, at, started=bool(attempts and attempts[-1].first_step_at)), *made)


def _has_failed(job: JobFacts, attempt: AttemptFacts, *, last: bool) -> bool:
    if attempt.first_step_at is not None or (last and job.state == JobState.CANCELLED):
        return False
    return attempt.lost or (last and job.state == JobState.FAILED)


def _root(job: JobFacts, span_id: int, begin: datetime, end: datetime, *, started: bool) -> SpanFacts:
    return SpanFacts(
        name="job",
        trace_id=job.context.trace_id,
        span_id=span_id,
        parent_id=job.context.parent_id or None,
        begin=begin,
        end=end,
        failed=job.state == JobState.FAILED and not started,
        attributes={
            "surefoot.job.id": job.id,
            "surefoot.job.name": job.name,
            "surefoot.job.entrypoint": job.entrypoint,
            "surefoot.job.trainers": job.trainers,
            "surefoot.job.state": job.state,
        },
    )


def _start(
    job: JobFacts, attempt: AttemptFacts, root: int, begin: datetime, end: datetime, *, failed: bool
) -> Iterator[SpanFacts]:
    """The attempt, and what came one after the other in it; where it was lost, the last of these is what was under way."""
    start = _span(job, "start", root, begin, end, key=attempt.id, failed=failed, attempt=attempt)
    yield start
    phases = (
        ("launcher submitted", attempt.submitted_at),
        ("claimed", attempt.claimed_at),
        ("supervisor spoke", attempt.spoke_at),
        ("trainers ready", attempt.ready_at),
        ("first step", attempt.first_step_at),
    )
    reached = max((place for place, (_, at) in enumerate(phases) if at is not None), default=-1)
    at = begin
    for place, (name, when) in enumerate(phases[: reached + 2]):
        if place <= reached and when is None:
            continue  # it was not noted, and the next one takes its time
        after = _within(when or end, at, end)
        yield _span(job, name, start.span_id, at, after, key=attempt.id, failed=failed and place > reached)
        at = after


def _span(
    job: JobFacts,
    name: str,
    parent: int,
    begin: datetime,
    end: datetime,
    *,
    key: str = "",
    failed: bool = False,
    attempt: AttemptFacts | None = None,
) -> SpanFacts:
    attributes: dict[str, str | int] = {"surefoot.job.id": job.id}
    if attempt is not None:
        attributes |= {"surefoot.attempt.id": attempt.id, "surefoot.attempt.number": attempt.number}
    return SpanFacts(
        name=name,
        trace_id=job.context.trace_id,
        span_id=id_of(8, job.id, key, name),
        parent_id=parent,
        begin=begin,
        end=end,
        failed=failed,
        attributes=attributes,
    )


def _within(at: datetime, begin: datetime, end: datetime) -> datetime:
    """The moment, or the nearest one that is between these; `begin`, where `end` is before it."""
    return max(begin, min(at, end))
