"""Logging of the service: structured, to standard error, never a secret (tokens and codes are not logged anywhere).

What goes wrong again and again is counted, not written: nobody can fill the disk by doing the same wrong thing ten thousand times.
"""

from __future__ import annotations

import logging
import sys
import threading
import time

import structlog

from surefoot.own_log import OwnLog
from surefoot.printable import printable, printable_line
from surefoot_service.up.flood import Flood

__all__ = ["configure"]

_NEWLINE = "\n"
_MAX_VALUE_CHARS = 2000


def configure(*, as_json: bool = False) -> None:
    """Set up structlog for this process: lines for people, or JSON for machines."""
    renderer = (
        structlog.processors.JSONRenderer() if as_json else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    )
    floods, stream = _Floods(), sys.stderr
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        floods.processor,
        structlog.processors.TimeStamper(fmt="iso" if as_json else "%H:%M:%S", utc=as_json),
        # before the text is made plain: an exception's may be somebody else's
        structlog.processors.format_exc_info,
        _made_plain,
    ]
    structlog.configure(
        processors=[*shared, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=lambda *_: OwnLog(lambda: stream),
        cache_logger_on_first_use=False,
    )
    root = logging.getLogger()
    is_ours = not root.handlers
    # of other libraries only what is wrong; httpx tells every request's URL otherwise
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr)
    if is_ours:
        for handler in root.handlers:
            handler.setFormatter(_Plain("%(levelname)s %(name)s: %(message)s"))
            handler.addFilter(_Filter(floods))


def _made_plain(_logger: object, _name: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """Take out of every value what a terminal would obey, and make it short: requests and training code wrote some of them."""
    return {key: _plain(key, value) for key, value in event.items()}


def _plain(key: str, value: object) -> object:
    if not isinstance(value, str):
        return value
    if key == "exception":
        return printable(value)
    return printable_line(value if len(value) <= _MAX_VALUE_CHARS else f"{value[:_MAX_VALUE_CHARS]}...")


class _Plain(logging.Formatter):
    """Lines of other libraries without what a terminal would obey; tracebacks keep their lines."""

    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record))


class _Floods:
    """One count for structlog and for the libraries' own logging. Called from any thread."""

    def __init__(self) -> None:
        self._flood, self._lock = Flood(), threading.Lock()

    def admit(self, line: str) -> int | None:
        with self._lock:
            return self._flood.admit(line, time.monotonic())

    def untold(self) -> dict[str, int]:
        with self._lock:
            return self._flood.untold(time.monotonic())

    def processor(self, _logger: object, _method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
        """Drop what is a flood; tell with the next line what was left out."""
        if logging.getLevelNamesMapping().get(str(event["level"]).upper(), 0) >= logging.WARNING:
            left_out = self.admit(f"{event['event']}")
            if left_out is None:
                raise structlog.DropEvent
            if left_out:
                event["left_out"] = left_out
        if others := self.untold():
            event["left_out_of_others"] = others
        return event


class _Filter(logging.Filter):
    """The same for what libraries log, by the text before anything is filled in."""

    def __init__(self, floods: _Floods) -> None:
        super().__init__()
        self._floods = floods

    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno < logging.WARNING:
            return True
        left_out = self._floods.admit(f"{record.name}: {str(record.msg).partition(_NEWLINE)[0][:200]}")
        if left_out:
            record.msg = f"{record.msg} ({left_out} more like this were left out)"
        return left_out is not None
