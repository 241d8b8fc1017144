"""A fault that cannot be injected."""

from __future__ import annotations

__all__ = ["FaultRefusedError"]


class FaultRefusedError(Exception):
    """A fault cannot be injected here; the message says why."""
