"""What members tell each other in every exchange besides the vector: so that all of them know it at the same round."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["NO_SIGNALS", "Signals"]


@dataclass(frozen=True, slots=True)
class Signals:
    """Latched by whoever sends them: the same to every rank. Joined by `|`, they are what any member has sent."""

    # leave this generation at the next step boundary (R7)
    end_generation: bool = False
    # save the state at the end of this round's step
    save: bool = False
    # an earlier snapshot is still being written, so nobody is to save now
    still_saving: bool = False

    def __or__(self, other: Signals) -> Signals:
        return Signals.unpack(self.pack() | other.pack())

    def pack(self) -> int:
        """Return them as a number below 256."""
        return self.end_generation | self.save << 1 | self.still_saving << 2

    @staticmethod
    def unpack(bits: int) -> Signals:
        """Return what `pack` made a number of."""
        return Signals(bool(bits & 1), bool(bits & 2), bool(bits & 4))


NO_SIGNALS = Signals()
