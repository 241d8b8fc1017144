"""What the membership machine knows, what it is fed, and what it commands."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum

from pydantic import JsonValue

from surefoot.events import EventKind
from surefoot_actors.protocol.messages import (
    Done,
    FromTrainer,
    Generation,
    Report,
    ToTrainer,
)

__all__ = [
    "Came",
    "Cancelled",
    "Command",
    "Emit",
    "Event",
    "Finish",
    "Found",
    "GraceOver",
    "Kill",
    "Lost",
    "MembershipState",
    "Move",
    "Outcome",
    "Phase",
    "Record",
    "Reserve",
    "Reserved",
    "Resized",
    "Send",
    "StartTrainer",
    "Started",
    "Suspected",
    "Trusted",
    "Withdraw",
]


class Phase(Enum):
    FORMING = "forming"
    RESERVING = "reserving"
    COLLECTING = "collecting"
    RUNNING = "running"
    CONCLUDING = "concluding"
    ENDED = "ended"


@dataclass(frozen=True, slots=True, kw_only=True)
class MembershipState:
    num_sub_tasks: int
    # trainers wanted; min of them are enough to begin
    target: int
    min_trainers: int
    incarnation: int = 1
    phase: Phase = Phase.FORMING
    # newest reserved number; the newest decided generation
    number: int = 0
    nonce: str = ""
    generation: Generation | None = None
    # asked for, no word yet; with a word (Hello), not members
    starting: tuple[str, ...] = ()
    ready: tuple[str, ...] = ()
    # of those, and of the members that have no state yet: joined before, but were cut short
    half: frozenset[str] = frozenset()
    # where each of them would host the store
    stores: Mapping[str, tuple[str, int]] = field(default_factory=dict)
    num_started: int = 0
    # members of the newest generation that are dead for certain; that do not answer at present
    lost: frozenset[str] = frozenset()
    suspected: frozenset[str] = frozenset()
    # of the generation that is being ended
    reports: Mapping[str, Report] = field(default_factory=dict)
    # of the generation that runs
    left: frozenset[str] = frozenset()
    done: Mapping[str, Done] = field(default_factory=dict)
    flagged: bool = False
    elected: str | None = None
    # waited long enough for the rest of `target` before the first generation
    grace_over: bool = False
    fingerprint: tuple[tuple[str, str], ...] | None = None
    num_steps: int | None = None
    # losses since a round was last known to be committed; the newest round known
    fruitless: int = 0
    newest_round: int = 0
    # groups that broke since then
    num_broken: int = 0
    why: str = ""

    @property
    def members(self) -> tuple[str, ...]:
        """Members of the newest generation that are not known to be dead, in rank order."""
        if self.generation is None:
            return ()
        return tuple(m.trainer for m in self.generation.members if m.trainer not in self.lost)

    @property
    def ended(self) -> bool:
        return self.phase is Phase.ENDED


# ---- events


@dataclass(frozen=True, slots=True)
class Came:
    """A trainer's message."""

    message: FromTrainer


@dataclass(frozen=True, slots=True)
class Lost:
    """The trainer's process is dead, for certain."""

    trainer: str
    reason: str


@dataclass(frozen=True, slots=True)
class Suspected:
    """The trainer is stopped or silent. Only ends the waiting for it (R9)."""

    trainer: str
    reason: str


@dataclass(frozen=True, slots=True)
class Trusted:
    """The trainer that was suspected shows life again."""

    trainer: str


@dataclass(frozen=True, slots=True)
class Reserved:
    """`number` is durable (R3). `nonce` names the process group together with it."""

    number: int
    nonce: str


@dataclass(frozen=True, slots=True)
class Resized:
    target: int


@dataclass(frozen=True, slots=True)
class Cancelled:
    reason: str


@dataclass(frozen=True, slots=True)
class GraceOver:
    """Trainers enough to begin have been waiting for the others for long enough."""


@dataclass(frozen=True, slots=True)
class Started:
    """A trainer's process runs (its train function has not reached `steps()` yet)."""

    trainer: str


@dataclass(frozen=True, slots=True)
class Found:
    """A restarted supervisor has found these trainers alive, and this generation in the journal."""

    trainers: tuple[str, ...]
    number: int
    members: tuple[str, ...]
    finished: bool


Event = Came | Lost | Suspected | Trusted | Reserved | Resized | Cancelled | GraceOver | Started

# ---- commands


@dataclass(frozen=True, slots=True)
class StartTrainer:
    trainer: str


@dataclass(frozen=True, slots=True)
class Withdraw:
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
class Emit:
    kind: EventKind
    data: Mapping[str, JsonValue]


@dataclass(frozen=True, slots=True)
class Finish:
    """Record the outcome durably (R8), then end all trainers. `outcome`: succeeded, failed or cancelled."""

    outcome: str
    reason: str


Command = StartTrainer | Withdraw | Send | Kill | Reserve | Record | Emit | Finish
Outcome = tuple[MembershipState, tuple[Command, ...]]
Move = Callable[[MembershipState], Outcome]
