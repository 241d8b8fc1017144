"""Of what a trainer's process died, where something hangs on it. Words for people are beside it, and decide nothing."""

from __future__ import annotations

from enum import Enum

__all__ = ["DeathCause"]


class DeathCause(Enum):
    # it ended by itself, or nobody knows better
    PROCESS = "process"
    OUT_OF_MEMORY = "out of memory"
    # its node is gone, and took it along
    NODE = "node"
    # it never came to be: its node could not be set up, or its actor failed in starting
    SETUP = "setup"
    # we did that to it, since `surefoot chaos` asked for it
    INJECTED = "injected"

    @property
    def from_outside(self) -> bool:
        """Whether what it was computing is not to blame."""
        return self in (DeathCause.NODE, DeathCause.INJECTED)
