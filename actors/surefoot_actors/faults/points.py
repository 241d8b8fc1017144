"""Faults at an exact point: for tests, for `surefoot check`, and for chaos. In production no fault is set and a point costs one test.

A fault is written "signal@point:trainer:step", as "KILL@exchange:t1:5". It fires once, in the trainer's own process, at the exact
line, and first writes one line to the file named by SUREFOOT_FAULTS_FIRED, so that a test can assert that it fired. A joiner has its
own name, so a fault does not fire again in the replacement. `step` "*" means any step.
"""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass

__all__ = ["POINTS", "Fault", "arm", "armed", "parse", "point"]

# In the order a step passes them.
POINTS = (
    "start",  # the train function is about to be called
    "hello",  # ready to be a member, not yet one
    "join",  # a joiner: group formed, before the state has come
    "forward",  # a sub-task's batch has been handed to the user's code
    "backward",  # inside the backward of a sub-task
    "exchange",  # leaves are computed, slices are being sent
    "gather",  # the own slice is merged, nothing gathered yet
    "commit",  # the merge is committed, the user's code has not gone on
    "boundary",  # between a step's commit and the next step
    "snapshot",  # at that boundary, before the share of the state is copied
    "save",  # the share is copied, and about to be written
    "report",  # a generation is over, the report not yet made
    "enter",  # a new generation was told, its group not yet formed
    "conclude",  # elected, before the code after the loop
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    signal: int
    point: str
    trainer: str
    # None: any step
    step: int | None


def parse(text: str) -> Fault:
    """Read "KILL@exchange:t1:5". Raises ValueError naming what is wrong."""
    head, _, rest = text.partition("@")
    parts = rest.split(":")
    if len(parts) != 3 or parts[0] not in POINTS:
        raise ValueError(
            f"fault {text!r} is not of the form SIGNAL@POINT:TRAINER:STEP with a point of {', '.join(POINTS)}"
        )
    try:
        number = signal.Signals[f"SIG{head}"]
    except KeyError:
        raise ValueError(f"fault {text!r} names no signal: {head!r}") from None
    return Fault(signal=number, point=parts[0], trainer=parts[1], step=None if parts[2] == "*" else int(parts[2]))


_armed: list[Fault] = []
_fired_file = ""


def arm(texts: tuple[str, ...], trainer: str, fired_file: str) -> None:
    """Set this process's faults: those of `texts` that name `trainer`."""
    global _fired_file
    _armed[:] = [f for f in map(parse, texts) if f.trainer == trainer]
    _fired_file = fired_file


def armed(name: str) -> bool:
    """Whether a fault waits at a point: for points that cost something to pass."""
    return any(fault.point == name for fault in _armed)


def point(name: str, step: int) -> None:
    """Pass a point; the process may end here."""
    if _armed:
        for fault in _armed:
            if fault.point == name and fault.step in (None, step):
                _fire(fault, step)
                return


def _fire(fault: Fault, step: int) -> None:
    _armed.remove(fault)
    if _fired_file:
        line = f"{signal.Signals(fault.signal).name}@{fault.point}:{fault.trainer}:{step} pid={os.getpid()}\n"
        handle = os.open(_fired_file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.write(handle, line.encode())
        os.close(handle)
    os.kill(os.getpid(), fault.signal)
