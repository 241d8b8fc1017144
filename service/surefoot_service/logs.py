"""Logging of the service: structured, to standard error, never a secret (tokens and codes are not logged anywhere)."""

from __future__ import annotations

import logging
import sys

import structlog

from surefoot.printable import printable, printable_line

__all__ = ["configure"]


def configure(*, as_json: bool = False) -> None:
    """Set up structlog for this process: lines for people, or JSON for machines."""
    renderer = (
        structlog.processors.JSONRenderer()
        if as_json
        else structlog.dev.ConsoleRenderer(
            colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
        )
    )
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso" if as_json else "%H:%M:%S", utc=as_json),
        # before the text is made plain: an exception's may be somebody else's
        structlog.processors.format_exc_info,
        _made_plain,
    ]
    structlog.configure(
        processors=[*shared, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.PrintLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=False,
    )
    # of other libraries only what is wrong; httpx tells every request's URL otherwise
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr)
    for handler in logging.getLogger().handlers:
        handler.setFormatter(_Plain("%(levelname)s %(name)s: %(message)s"))


def _made_plain(_logger: object, _name: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """Take out of every value what a terminal would obey: requests and training code wrote some of them."""
    return {key: _plain(key, value) for key, value in event.items()}


def _plain(key: str, value: object) -> object:
    if not isinstance(value, str):
        return value
    return printable(value) if key == "exception" else printable_line(value)


class _Plain(logging.Formatter):
    """Lines of other libraries without what a terminal would obey; tracebacks keep their lines."""

    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record))
