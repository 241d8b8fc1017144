"""What a maintainer of Surefoot asks for of a job in which something went wrong: all of it is in the events. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

from surefoot.cli.format import describe
from surefoot.events import Event, EventKind
from surefoot.names import attempt_of
from surefoot.printable import printable_line
from surefoot.views import JobView, NumberedEvent

__all__ = ["debugging"]

# so many of the last events are shown with their data
_LAST = 20
# What has lines of its own, and is shown elsewhere.
_LONG = frozenset({"story", "traceback"})
_CONTROL_PLANE = "service"


def debugging(view: JobView, events: Sequence[NumberedEvent]) -> Iterator[str]:
    """Yield lines: the attempts and who told of them, the generations, the last events with their data, and every story."""
    yield from _attempts(view, events)
    yield from _generations(view, events)
    yield from _last_events(view, events)
    yield from _stories(view, events)


def _attempts(view: JobView, events: Sequence[Event]) -> Iterator[str]:
    newest = f", the newest is {view.attempt}" if view.attempt else ""
    yield ""
    yield f"attempts: {view.attempts}{newest}; package {view.spec.package}"
    for event in events:
        if event.source == _CONTROL_PLANE and event.kind is EventKind.STATE:
            yield f"{_since(view, event)}  {describe(event)}"
    for source in dict.fromkeys(event.source for event in events if event.source != _CONTROL_PLANE):
        told = [event for event in events if event.source == source]
        times = f"from {_since(view, told[0]).strip()} to {_since(view, told[-1]).strip()}"
        yield f"  {printable_line(source)} told {len(told)} events, {times}"
    for event in events:
        if event.kind is EventKind.TRAINER_READY:
            yield f"{_since(view, event)}  {attempt_of(event.source)}: {describe(event)}"


def _generations(view: JobView, events: Sequence[Event]) -> Iterator[str]:
    found = [event for event in events if event.kind is EventKind.GENERATION]
    yield ""
    yield f"generations: {len(found)}"
    for event in found:
        yield f"{_since(view, event)}  {attempt_of(event.source)}: {_data(event)}"


def _last_events(view: JobView, events: Sequence[NumberedEvent]) -> Iterator[str]:
    yield ""
    yield f"the last {min(len(events), _LAST)} of {len(events)} events:"
    for event in events[-_LAST:]:
        yield f"{_since(view, event)}  {event.seq} {printable_line(event.source)} {event.n} {event.kind.value}: {_data(event)}"


def _stories(view: JobView, events: Sequence[Event]) -> Iterator[str]:
    for event in events:
        if isinstance(story := event.data.get("story"), list) and story:
            yield ""
            yield f"the story told at {_since(view, event).strip()} by {printable_line(event.source)}: {describe(event)}"
            yield from (f"  {printable_line(str(line))}" for line in story)


def _data(event: Event) -> str:
    """The data in a line of JSON."""
    shown: dict[str, Any] = {name: value for name, value in event.data.items() if name not in _LONG}
    return json.dumps(shown)


def _since(view: JobView, event: Event) -> str:
    return f"{(event.at - view.created_at).total_seconds():+9.2f} s"
