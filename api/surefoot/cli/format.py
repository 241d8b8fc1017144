"""How things are said: durations, states, events. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from typing_extensions import assert_never

from surefoot.bounds import MAX_WHOLE
from surefoot.cli.folding import shortened
from surefoot.data import size_words
from surefoot.events import Event, EventKind
from surefoot.printable import printable_line
from surefoot.spec import JobState
from surefoot.words import UnknownWord

__all__ = ["ago", "describe", "duration", "number", "read_duration", "size", "state_style", "steps"]

_STYLES = {
    JobState.QUEUED: "dim",
    JobState.STARTING: "cyan",
    JobState.RUNNING: "blue",
    JobState.RECOVERING: "yellow",
    JobState.SUCCEEDED: "green",
    JobState.PAUSING: "yellow",
    JobState.PAUSED: "yellow",
    JobState.FAILED: "red",
    JobState.CANCELLED: "magenta",
}


def state_style(state: JobState | UnknownWord) -> str:
    return _STYLES[state] if isinstance(state, JobState) else ""


def duration(seconds: float) -> str:
    """Say a duration: "184 ms", "4.2 s", "3 min 20 s", "5 h 3 min", "2 d 4 h"; "?" for what is none."""
    if not abs(seconds) <= MAX_WHOLE:  # nor is what is no number
        return "?"
    if seconds < 1:
        return f"{max(seconds, 0) * 1000:.0f} ms"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    for unit, size, smaller, part in (("d", 86400, "h", 3600), ("h", 3600, "min", 60), ("min", 60, "s", 1)):
        if whole >= size:
            return f"{whole // size} {unit} {whole % size // part} {smaller}"
    return f"{whole} s"


_DURATION = re.compile(r"(\d+(?:\.\d+)?)([smhd])")
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def read_duration(text: str) -> float | None:
    """Read "90s", "10m", "1.5h", "2d" as seconds; None: it is no duration."""
    found = _DURATION.fullmatch(text)
    return None if found is None else float(found[1]) * _UNITS[found[2]]


def ago(then: datetime | None, now: datetime) -> str:
    return "" if then is None else f"{duration(max(1.0, (now - then).total_seconds())).replace('.0 s', ' s')} ago"


def number(value: float) -> str:
    """Say a logged value: five significant digits."""
    return f"{value:.5g}"


def size(num_bytes: int) -> str:
    """Say a size: "512 B", "3.4 MB"."""
    value = float(min(num_bytes, MAX_WHOLE))
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.3g} {unit}" if unit != "B" else f"{num_bytes} B"
        value /= 1000
    return f"{value:.3g} TB"


def steps(done: int, total: int | None) -> str:
    return f"{done}" if total is None else f"{done}/{total}"


def describe(event: Event) -> str:
    """Say what happened, in a line. Reads no more of the data than is there."""
    data: Mapping[str, Any] = {name: _in_a_line(name, value) for name, value in event.data.items()}
    trainer = data.get("trainer", "?")
    reason = f": {data['reason']}" if data.get("reason") else ""
    match event.kind:
        case EventKind.STATE:
            return f"{data.get('state', '?')}{reason}"
        case EventKind.INSTALLING:
            return f"installing requirements for trainer {trainer}: {_names(data.get('requirements', '?'))}"
        case EventKind.DATA:
            return _copying(data)
        case EventKind.TRAINER_STARTED:
            return f"trainer {trainer} is starting"
        case EventKind.TRAINER_READY:
            return f"trainer {trainer} is ready{_on_node(data)}"
        case EventKind.TRAINER_LOST:
            return f"lost trainer {trainer}{_where(data)}{reason}"
        case EventKind.TRAINER_REFUSED:
            return f"refused trainer {trainer}{reason}"
        case EventKind.TRAINER_LEFT:
            return f"trainer {trainer} left{_where(data)}, as planned{reason}"
        case EventKind.GENERATION:
            return _generation(data, reason)
        case EventKind.LENGTH:
            return f"the run has {data.get('num_steps', '?')} steps"
        case EventKind.RECOVERED:
            return _recovered(data)
        case EventKind.CHECKPOINT:
            return f"checkpoint of step {data.get('step', '?')}"
        case EventKind.CHECKPOINT_FAILED:
            return f"no checkpoint of step {data.get('step', '?')}{reason}"
        case EventKind.CHECKPOINT_SKIPPED:
            return f"skipped checkpoint {data.get('url', '?')}{reason}"
        case EventKind.RESTORED:
            return f"restored step {data.get('step', '?')} from {data.get('url', '?')}"
        case EventKind.FAULT:
            last = ", the last that held the state" if data.get("left") == 0 else ""
            return f"fault injected: {data.get('kind', '?')} {trainer}{last}"
        case EventKind.WARNING:
            return f"warning: {data.get('message', '')}"
        case EventKind.FAILED:
            return f"failed{reason}"
        case EventKind.FINISHED:
            return f"finished after {data.get('steps', '?')} steps, final state {data.get('digest', '?')}"
        case UnknownWord():
            return f"{event.kind}: {_brief(data)}"
        case _:
            assert_never(event.kind)


def _copying(data: Mapping[str, Any]) -> str:
    size, files = data.get("bytes"), data.get("files", "?")
    much = f"{size_words(size)}, " if isinstance(size, int | float) else ""
    what = f"data {data.get('name', '?')}: {much}{files} file{'' if files == 1 else 's'}"
    where = f" to {data['node']}" if data.get("node") else ""
    if not data.get("copied"):
        return f"copying {what}{where}"
    took = data.get("seconds")
    time = f" in {duration(took)}" if isinstance(took, int | float) and abs(took) <= MAX_WHOLE else ""
    return f"copied {what}{where}{time}, digest {data.get('digest', '?')}"


def _brief(data: Mapping[str, Any]) -> str:
    """What a kind of event says that only a newer version knows: its words, as they are."""
    said = ", ".join(f"{name} {value}" for name, value in list(data.items())[:10])
    return shortened(said, 300)


# What may have several lines: a person wrote it, or Python.
_LONG = frozenset({"reason", "message"})


def _in_a_line(name: str, value: Any) -> Any:
    """A value that is text without line ends: they would make it look like another event."""
    if isinstance(value, list):
        return [_in_a_line(name, item) for item in value]
    return printable_line(value) if isinstance(value, str) and name not in _LONG else value


def _where(data: Mapping[str, Any], word: str = "at") -> str:
    """ "at step 57"; a supervisor that counts only rounds says so."""
    return next((f" {word} {unit} {data[unit]}" for unit in ("step", "round") if data.get(unit) is not None), "")


def _on_node(data: Mapping[str, Any]) -> str:
    parts = [f"{name} {data[name]}" for name in ("pid", "node", "group", "market", "device") if data.get(name)]
    return f" ({', '.join(parts)})" if parts else ""


def _generation(data: Mapping[str, Any], reason: str) -> str:
    trainers = data.get("trainers", "?")
    count = len(trainers) if isinstance(trainers, list) else trainers
    changes = [f"{what} {_names(data[what])}" for what in ("joined", "lost", "left") if data.get(what)]
    told = f" ({'; '.join(changes)})" if changes else ""
    noun = "trainer" if count == 1 else "trainers"
    return f"generation {data.get('generation', '?')}: {count} {noun}{_where(data, 'from')}{told}{reason}"


def _names(value: Any) -> str:
    return ", ".join(str(item) for item in value) if isinstance(value, list) else str(value)


def _recovered(data: Mapping[str, Any]) -> str:
    seconds, again = data.get("seconds"), data.get("sub_tasks_again")
    time = f" in {duration(seconds)}" if isinstance(seconds, int | float) and abs(seconds) <= MAX_WHOLE else ""
    twice = "" if again is None else f", {again} sub-task{'' if again == 1 else 's'} computed again"
    return f"recovered{_where(data)}{time}{twice}"
