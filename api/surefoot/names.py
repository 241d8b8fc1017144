"""How things are called that two packages speak of: made and parsed here. Pure.

A job is "ab2cd3ef4g", its second attempt "ab2cd3ef4g-2". Whatever belongs to an attempt has the attempt's name before a slash: its actors
in Ray ("ab2cd3ef4g-2/supervisor", "ab2cd3ef4g-2/t7"), and the sources of its events ("ab2cd3ef4g-2/supervisor-1f0c").
"""

from __future__ import annotations

import re

__all__ = [
    "ATTEMPT_PATTERN",
    "JOB_PATTERN",
    "LOG_SOURCE_PATTERN",
    "SOURCE_PATTERN",
    "SUPERVISOR",
    "SUPERVISOR_CLASS",
    "attempt_name",
    "attempt_number",
    "attempt_of",
    "is_attempt",
    "is_job",
    "name_within",
    "trainer_name",
    "trainer_number",
]

_ATTEMPT = r"[a-z0-9-]{1,60}"

# what a job's id, and an attempt's name, may be: as OpenAPI says it
JOB_PATTERN = r"^[a-z0-9-]{1,40}$"
ATTEMPT_PATTERN = rf"^{_ATTEMPT}$"
# who of which attempt tells events; or a name that belongs to the first attempt that tells under it
SOURCE_PATTERN = (
    rf"^({_ATTEMPT}/(supervisor|trainer|launcher)(-[A-Za-z0-9._-]{{1,40}})?|[A-Za-z0-9][A-Za-z0-9._-]{{0,60}})$"
)

# whose printed lines: a process of the attempt, and the collector that read them
LOG_SOURCE_PATTERN = r"^(t\d{1,9}|supervisor|launcher)-[0-9a-f]{8}$"

# the supervisor's name within its attempt, and the class of its actor, by which Ray tells of its death
SUPERVISOR = "supervisor"
SUPERVISOR_CLASS = "SupervisorActor"

_JOB = re.compile(JOB_PATTERN)
_ATTEMPT_NAME = re.compile(ATTEMPT_PATTERN)


def is_job(text: str) -> bool:
    """Whether this may be a job's id, rather than a path or a URL."""
    return _JOB.fullmatch(text) is not None


def is_attempt(text: str) -> bool:
    """Whether this may be an attempt's name."""
    return _ATTEMPT_NAME.fullmatch(text) is not None


def attempt_name(job: str, number: int) -> str:
    """The name of a job's attempt, counted from 1: "ab2cd3ef4g-2"."""
    return f"{job}-{number}"


def attempt_number(attempt: str) -> int:
    """Which of its job's attempts it is, by its name; 1 where the name does not say."""
    number = attempt.rpartition("-")[2]
    return int(number) if number.isdecimal() else 1


def name_within(attempt: str, role: str) -> str:
    """The name of what belongs to an attempt: "ab2cd3ef4g-2/supervisor"."""
    return f"{attempt}/{role}"


def attempt_of(name: str) -> str:
    """The attempt that something belongs to by its name; empty where the name does not say."""
    return name.rpartition("/")[0]


def trainer_name(number: int) -> str:
    """The name of an attempt's trainer, counted from 0 in the order in which they were started: "t7"."""
    return f"t{number}"


def trainer_number(trainer: str) -> int:
    """The number in a trainer's name."""
    return int(trainer[1:])
