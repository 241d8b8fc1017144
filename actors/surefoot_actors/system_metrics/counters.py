"""What a trainer counts while it trains, in memory that its watchdog reads: a few additions a step, and nothing is sent."""

from __future__ import annotations

import mmap
import os
import struct
from typing import NamedTuple

__all__ = ["SIZE", "Counts", "attach", "exchanged", "read", "stepped"]

_STEPS, _TIMES = struct.Struct("qd"), struct.Struct("dd")
SIZE = _STEPS.size + _TIMES.size


class Counts(NamedTuple):
    """All since the trainer started."""

    steps: int = 0
    # its own share of the steps' samples
    samples: float = 0.0
    # waiting until every other trainer had come to a round's exchange; and the exchange from then on
    wait_s: float = 0.0
    exchange_s: float = 0.0


_memory: mmap.mmap | None = None
_at = 0
_counts = [0.0, 0.0, 0.0, 0.0]


def attach(memory: mmap.mmap, at: int) -> None:
    """Count in this memory, from `at` on."""
    global _memory, _at
    _memory, _at = memory, at
    _counts[:] = (0.0, 0.0, 0.0, 0.0)


def stepped(samples: float) -> None:
    """A step is done, of which this trainer computed so many samples. Called by the training thread alone."""
    _counts[0] += 1
    _counts[1] += samples
    if _memory is not None:
        _STEPS.pack_into(_memory, _at, int(_counts[0]), _counts[1])


def exchanged(wait_s: float, exchange_s: float) -> None:
    """A round is merged. Called by the thread of the present data plane."""
    _counts[2] += wait_s
    _counts[3] += exchange_s
    if _memory is not None:
        _TIMES.pack_into(_memory, _at + _STEPS.size, _counts[2], _counts[3])


def read(fd: int, at: int) -> Counts:
    """What the trainer whose memory this is has counted."""
    steps, samples = _STEPS.unpack(os.pread(fd, _STEPS.size, at))
    return Counts(steps, samples, *_TIMES.unpack(os.pread(fd, _TIMES.size, at + _STEPS.size)))
