"""What went wrong in a job, when, and the seconds it cost. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime

from surefoot.bounds import MAX_WHOLE
from surefoot.events import SUPERVISOR_RESTARTED, Event, EventKind, FaultKind
from surefoot.spec import JobState

__all__ = ["Trouble", "troubles"]

_KINDS = frozenset(
    {
        EventKind.TRAINER_LOST,
        EventKind.TRAINER_REFUSED,
        EventKind.FAULT,
        EventKind.CHECKPOINT_FAILED,
        EventKind.CHECKPOINT_SKIPPED,
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Trouble:
    """One thing that went wrong."""

    at: datetime
    event: Event
    # from then to the next committed step, or until a later attempt ran; None: it held nothing up, as far as was told
    seconds: float | None = None


def troubles(events: Iterable[Event]) -> list[Trouble]:
    """Return them in their order. Losses that were recovered from together share one cost, told at the first of them.

    An injected fault and the loss that it made are one thing, told as the fault.
    """
    found: list[Trouble] = []
    # places in `found` of what is not recovered from yet, and of injected faults by what they hit
    losses: list[int] = []
    injected: dict[str, int] = {}
    lost_attempt: int | None = None
    for event in sorted(events, key=lambda e: e.at):
        if event.kind is EventKind.STATE:
            if event.data.get("state") == JobState.QUEUED and _tried_again(event):
                lost_attempt = len(found)
                found.append(Trouble(at=event.at, event=event))
            elif event.data.get("state") == JobState.RUNNING and lost_attempt is not None:
                cost = (event.at - found[lost_attempt].at).total_seconds()
                found[lost_attempt] = replace(found[lost_attempt], seconds=cost)
                lost_attempt = None
        elif event.kind is EventKind.RECOVERED:
            seconds = event.data.get("seconds")
            if losses and isinstance(seconds, int | float) and abs(seconds) <= MAX_WHOLE:
                found[losses[0]] = replace(found[losses[0]], seconds=float(seconds))
            losses = []
        elif event.kind in _KINDS or event.data.get("reason") == SUPERVISOR_RESTARTED:
            hit = str(event.data.get("trainer") or FaultKind.SUPERVISOR)
            place = len(found)
            if event.kind is EventKind.FAULT:
                injected[hit] = place
            elif event.kind in (EventKind.TRAINER_LOST, EventKind.TRAINER_REFUSED, EventKind.GENERATION):
                place = injected.pop(hit, place)
            if event.kind is EventKind.TRAINER_LOST:
                losses.append(place)
            if place == len(found):
                found.append(Trouble(at=event.at, event=event))
    return found


def _tried_again(event: Event) -> bool:
    """Whether this return to the queue is a lost attempt's: the first queueing, and a resumption, do not say so."""
    return "tried again" in str(event.data.get("reason") or "")
