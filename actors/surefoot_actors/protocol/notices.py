"""Messages that no machine hears of: they are for a trainer's files, and for people."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["NoticeTaken", "Warned"]


@dataclass(frozen=True, slots=True, kw_only=True)
class NoticeTaken:
    """The receiver, or its node, is about to go: it may leave at any boundary."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Warned:
    """What a person should know, and no machine."""

    trainer: str
    message: str
