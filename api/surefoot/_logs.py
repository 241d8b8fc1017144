"""Printed lines, read page by page, or followed. No network here."""

from __future__ import annotations

import time
from datetime import datetime
from typing import Any

from typing_extensions import TypedDict

from surefoot._follow import PATIENCE_S
from surefoot._given import a_moment, a_text, a_whole_number
from surefoot._requests import Flow, ask, check_goes_on, get_logs
from surefoot.errors import OptionError, ServiceUnavailableError
from surefoot.logs import LogLine, LogPage, LogStream

__all__ = ["LogOptions", "LogPages", "OneTrainer"]

# how long the service may wait for a line before it answers that there is none
_WAIT_S = 20.0
# lines a page
_PAGE = 5_000
# what one request may ask for from the end
_MOST_TAIL = 10_000
# a trainer whose node has died says no last word: after so long another one is shown
_SILENT_S = 15.0


class LogOptions(TypedDict, total=False):
    """Which printed lines are wanted; each may be left out."""

    #: only those of this process: "t0", "supervisor", "launcher"
    trainer: str | None
    #: the last so many (at most 10,000), in place of all; when followed, those and what comes after them
    tail: int | None
    #: those from this time on
    since: datetime | None
    #: those with this text in them
    contains: str | None


class LogPages:
    """A job's lines: ask for `next` until they are `done`."""

    def __init__(self, job_id: str, wanted: LogOptions, *, follow: bool) -> None:
        self.job_id, self.done = job_id, False
        #: lines with lower numbers are not kept any more
        self.first = 0
        self._follow, self._start = follow, 0
        given: dict[str, Any] = {name: value for name, value in wanted.items() if value is not None}
        if unknown := sorted(set(given) - set(LogOptions.__annotations__)):
            raise OptionError(f"logs() takes no {', '.join(unknown)}; it takes {', '.join(LogOptions.__annotations__)}")
        self._tail = a_whole_number(given["tail"], "tail") if "tail" in given else None
        self._wanted: dict[str, Any] = {
            name: a_text(given[name], name, example)
            for name, example in (("trainer", "t0"), ("contains", "loss"))
            if name in given
        }
        if "since" in given:
            self._wanted["since"] = a_moment(given["since"], "since").isoformat()
        self._silent_since: float | None = None

    def next(self) -> Flow[tuple[LogLine, ...]]:
        """The next lines; none where none came in time. Raises ServiceUnavailableError when nobody has answered for two minutes."""
        try:
            page = yield from self._ask()
        except ServiceUnavailableError:
            self._silent_since = self._silent_since or time.monotonic()
            if not self._follow or time.monotonic() - self._silent_since > PATIENCE_S:
                raise
            return ()
        self._silent_since, self._tail = None, None
        if page.more:
            check_goes_on(self._start, page.next)
        self._start, self.first = page.next, page.first
        self.done = page.done if self._follow else not page.more
        return page.lines

    def _ask(self) -> Flow[LogPage]:
        if self._tail is not None:
            return (yield from ask(get_logs(self.job_id, tail=min(self._tail, _MOST_TAIL), **self._wanted)))
        wait_s = _WAIT_S if self._follow else 0.0
        return (yield from ask(get_logs(self.job_id, start=self._start, limit=_PAGE, wait_s=wait_s, **self._wanted)))


class OneTrainer:
    """Chooses lines of one trainer, and once that has ended, or is silent, of another: what all of them print is shown about once."""

    def __init__(self) -> None:
        self._shown: tuple[int, str] | None = None
        self._step = -1
        # of the newest line that was shown
        self._at: datetime | None = None
        self._over: set[tuple[int, str]] = set()

    def shows(self, line: LogLine) -> bool:
        """Whether to show the next of a job's lines."""
        whose = (line.attempt, line.trainer)
        if not line.trainer.startswith("t"):
            return False
        if line.stream == LogStream.SUREFOOT:
            self._over.add(whose)
        elif whose not in self._over and self._is_next(line):
            self._shown = whose
        if whose != self._shown:
            return False
        self._step, self._at = line.step, line.at
        return True

    def _is_next(self, line: LogLine) -> bool:
        """Whether the trainer that is shown has nothing more to say, and this one goes on from there."""
        if self._shown is None or self._at is None or line.attempt > self._shown[0]:
            return True
        silent = (line.at - self._at).total_seconds() > _SILENT_S
        return (self._shown in self._over or silent) and line.step >= self._step
