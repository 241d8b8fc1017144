"""What the membership machine commands."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from pydantic import JsonValue

from surefoot.events import EventKind
from surefoot.spec import JobState
from surefoot_actors.protocol.membership.state import MembershipState, Timer
from surefoot_actors.protocol.messages import Generation, ToTrainer

__all__ = [
    "BeginFrom",
    "CancelStart",
    "CancelTimer",
    "Command",
    "Emit",
    "Finish",
    "Kill",
    "Move",
    "Outcome",
    "Record",
    "Reserve",
    "SaveState",
    "Send",
    "SetTimer",
    "StartTrainer",
]


@dataclass(frozen=True, slots=True)
class StartTrainer:
    trainer: str
    # wait so long before: failures that repeat back off
    after_s: float = 0.0
    # on another machine than these were on, if that is possible: what they raised may be their machine's fault
    apart_from: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class CancelStart:
    """Withdraw the request for a trainer that has not said a word yet."""

    trainer: str


@dataclass(frozen=True, slots=True)
class Send:
    trainer: str
    message: ToTrainer


@dataclass(frozen=True, slots=True)
class Kill:
    """Fence: end the process, whatever state it is in."""

    trainer: str
    reason: str


@dataclass(frozen=True, slots=True)
class Reserve:
    """Reserve the next generation number durably, then answer with Reserved."""


@dataclass(frozen=True, slots=True)
class Record:
    """Record the generation's members durably, before any of them is told."""

    generation: Generation


@dataclass(frozen=True, slots=True)
class BeginFrom:
    """The run begins from another job's checkpoint, at this step. Make that durable: a later beginning would be another run."""

    url: str
    step: int


@dataclass(frozen=True, slots=True)
class Emit:
    kind: EventKind
    data: Mapping[str, JsonValue]


@dataclass(frozen=True, slots=True)
class Finish:
    """Record the outcome durably (R8), then end all trainers."""

    # one that an attempt can end in
    outcome: JobState
    reason: str


@dataclass(frozen=True, slots=True)
class SaveState:
    """Have these parked members save the state, a share each, then answer with StateSaved. Told again, begin again with those."""

    members: tuple[str, ...]
    generation: int
    # for a pause it is tried until it is saved; after the last step for some time
    pausing: bool


@dataclass(frozen=True, slots=True)
class SetTimer:
    """Tell TimerFired after so long, once. One that is set already begins anew."""

    timer: Timer
    after_s: float


@dataclass(frozen=True, slots=True)
class CancelTimer:
    """Tell no TimerFired of this timer."""

    timer: Timer


Command = (
    SaveState
    | StartTrainer
    | CancelStart
    | Send
    | Kill
    | Reserve
    | Record
    | BeginFrom
    | Emit
    | Finish
    | SetTimer
    | CancelTimer
)

# What a move of the machine comes to.
Outcome = tuple[MembershipState, tuple[Command, ...]]
Move = Callable[[MembershipState], Outcome]
