"""What processes of a job print: as it is told by a supervisor, and as it is read by people.

A body of POST /v1/attempts/{attempt}/logs is frames laid end to end: a `FrameHead` as a line of JSON, then that many bytes of zlib, which
hold `Run`s as lines of JSON. (source, number) is a line's natural key: what is sent twice is stored once.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from surefoot._compat import StrEnum
from surefoot.names import LOG_SOURCE_PATTERN
from surefoot.words import UnknownWord

__all__ = ["LOGS_TYPE", "FrameHead", "LogLine", "LogPage", "LogStream", "LogsAck", "Run"]

LOGS_TYPE = "application/octet-stream"


class LogStream(StrEnum):
    """Where a line was printed."""

    STDOUT = "stdout"
    STDERR = "stderr"
    #: what Surefoot itself says among the lines: that the process has ended, that some were lost
    SUREFOOT = "surefoot"


class FrameHead(BaseModel):
    """What is before a frame's bytes."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    source: Annotated[str, Field(pattern=LOG_SOURCE_PATTERN)]
    """The process that printed, a dash, and a word that its collector chose: "t0-1f0c52aa"."""
    first: Annotated[int, Field(ge=1, le=2**53)]
    """The number of its first line, counted from 1 by the source; numbers of lines that were lost are left out."""
    count: Annotated[int, Field(ge=1, le=10_000_000)]
    """How many lines it has."""
    bytes: Annotated[int, Field(ge=1, le=2**31)]
    """How many bytes of zlib follow."""


class Run(BaseModel):
    """Lines that share time, step and stream."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    t: Annotated[int, Field(ge=0, le=2**53)]
    """When they were read, in milliseconds since 1970."""
    s: Annotated[int, Field(ge=-1, le=2**53)]
    """The step under way; -1: none yet."""
    f: LogStream
    """The stream."""
    x: Annotated[str, Field(min_length=1)]
    """The lines, each with its line break."""


class LogsAck(BaseModel):
    """The lines are stored."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    stored: int
    """How many of the lines were new."""


class LogLine(BaseModel):
    """A line that a process of a job printed."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    number: int
    """Its place among all lines of the job, counted from 0: to go on after it."""
    attempt: int
    """Which of the job's attempts printed it."""
    trainer: str
    """The process: a trainer ("t0"), "supervisor" or "launcher"."""
    step: int
    """The step that the trainer was at; -1: before the first."""
    at: datetime
    """When."""
    stream: Annotated[LogStream | UnknownWord, Field(union_mode="left_to_right")]
    """Where it was printed; "surefoot": what Surefoot itself says among the lines."""
    text: str
    """The line, without its line break."""


class LogPage(BaseModel):
    """Some lines of a job, in the order in which they are kept."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    lines: tuple[LogLine, ...]
    """The lines that were asked for, as far as this page goes; it may be empty although more follow."""
    next: int
    """Where the next page begins: its `start`."""
    more: bool
    """Whether there was more to look through when this was answered."""
    done: bool
    """Whether nothing more will come: the job has ended, and so has the last that printed."""
    first: int
    """The number of the oldest line that is kept: older ones went when the job had printed more than is kept."""
