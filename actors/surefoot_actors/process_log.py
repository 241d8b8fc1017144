"""The log of a process of ours, to standard error: apart from training code, which may set up structlog, or redirect what it prints.

This process's secrets are taken out of it. A line that cannot be written is lost.
"""

from __future__ import annotations

import sys
from typing import Any

import structlog

from surefoot.own_log import OwnLog
from surefoot_actors.disclosed import masking

__all__ = ["log", "say"]


def say(text: str) -> None:
    """Print to standard error as training code has it, which may have closed it: nothing is raised where that cannot be done."""
    _shown.msg(text)


def _masked(_logger: object, _name: str, line: Any) -> str:
    return masking().text(line)


_shown = OwnLog(lambda: sys.stderr)

# a traceback without the values of variables, which may be secrets
log: Any = structlog.wrap_logger(
    OwnLog(lambda: sys.__stderr__),
    processors=[
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="%Y-%m-%d %H:%M:%S", utc=False),
        structlog.processors.format_exc_info,
        structlog.dev.ConsoleRenderer(colors=False),
        _masked,
    ],
    wrapper_class=structlog.make_filtering_bound_logger(0),
    context_class=dict,
    cache_logger_on_first_use=True,
)
