"""How far the trials train: long enough to see an epoch end, and no longer than a person waits."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["FEWEST_STEPS", "Extent"]

# A joiner needs a step before it, one whose exchange announces it, and one to compute itself.
FEWEST_STEPS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Extent:
    """Train until an epoch has ended and some steps more, within these bounds."""

    batch_size: int
    beyond: int = 3
    least: int = 6
    most: int = 48
    # training is over when this has passed, but for the fewest steps
    seconds: float = 10.0

    def begin(self) -> Callable[[int, int], bool]:
        """Begin now. Returns what tells whether it is over before a step, by its number and the samples an epoch (0: not known yet)."""
        clock = time.monotonic
        began = clock()

        def is_over(step: int, epoch_length: int) -> bool:
            epoch = -(-epoch_length // self.batch_size) + self.beyond if epoch_length else self.most
            late = clock() - began > self.seconds
            return step >= self.least and (late or step >= min(epoch, self.most))

        return is_over
