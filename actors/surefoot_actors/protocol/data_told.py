"""What a trainer tells of the job's data, as it comes to it. It decides nothing: people are told, and that it goes on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["DataTold"]


@dataclass(frozen=True, slots=True, kw_only=True)
class DataTold:
    """How this trainer, before its steps, comes to the job's data."""

    trainer: str
    node: str
    # what the job calls it
    name: str
    what: Literal["copying", "progress", "copied", "warning"]
    # of all its files; with "progress", those that are copied
    bytes: int = 0
    files: int = 0
    seconds: float = 0.0
    digest: str = ""
    # of a warning
    message: str = ""
