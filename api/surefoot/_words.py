"""Words that people write where enums are: read, or refused with those that there are. Pure."""

from __future__ import annotations

from typing import TypeVar

from surefoot.errors import UserError
from surefoot.events import FaultKind
from surefoot.spec import JobState

__all__ = ["a_fault", "a_state"]

E = TypeVar("E", JobState, FaultKind)


def a_state(state: JobState | str | None) -> JobState | None:
    """The state that a word means. Raises UserError for one that means none."""
    return None if state is None else _member(JobState, state)


def a_fault(kind: FaultKind | str) -> FaultKind:
    """The fault that a word means. Raises UserError for one that means none."""
    return _member(FaultKind, kind)


def _member(kind: type[E], word: str) -> E:
    try:
        return kind(word)
    except ValueError:
        raise UserError(f"{word!r} is none of {', '.join(kind)}") from None
