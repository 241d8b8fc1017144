"""The log of a process of ours, to standard error: apart from training code, which may set up structlog, or redirect what it prints."""

from __future__ import annotations

import sys
from typing import Any

import structlog

from surefoot.own_log import OwnLog

__all__ = ["log"]

# a traceback without the values of variables, which may be secrets
log: Any = structlog.wrap_logger(
    OwnLog(lambda: sys.__stderr__),
    processors=[
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="%Y-%m-%d %H:%M:%S", utc=False),
        structlog.processors.format_exc_info,
        structlog.dev.ConsoleRenderer(colors=False),
    ],
    wrapper_class=structlog.make_filtering_bound_logger(0),
    context_class=dict,
    cache_logger_on_first_use=True,
)
