"""What the member machine knows, what it is fed, and what it commands."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Literal

from surefoot_actors.protocol.messages import (
    Elected,
    End,
    EndGeneration,
    EnterGeneration,
    FromTrainer,
    Generation,
    RequestBoundary,
)

__all__ = [
    "At",
    "AtBoundary",
    "AtEnd",
    "Close",
    "Command",
    "Event",
    "Exchanged",
    "Form",
    "Gathered",
    "LeafMade",
    "MemberState",
    "Merge",
    "Opened",
    "Outcome",
    "OwnGroupFailed",
    "Resume",
    "Stage",
    "StateCame",
    "StateServed",
    "Stop",
    "Tell",
    "VectorCame",
]


class At(Enum):
    """Where the training thread is."""

    START = "start"
    USER = "user"
    ROUND = "round"
    BOUNDARY = "boundary"
    END = "end"
    CONCLUDED = "concluded"


class Stage(Enum):
    """How far a round is."""

    COMPUTE = "compute"
    EXCHANGE = "exchange"
    GATHER = "gather"
    BEHIND = "behind"


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberState:
    trainer: str
    num_sub_tasks: int
    at: At = At.START
    stage: Stage = Stage.COMPUTE
    # newest supervisor obeyed, and the lowest number that is not refused (R2)
    incarnation: int = 0
    promised: int = 0
    # newest generation entered, None before the first
    generation: Generation | None = None
    # whether that generation still counts here: False from the report on
    live: bool = False
    # every earlier round is committed here; -1: no state yet
    round: int = -1
    own: int = 0
    held: int = 0
    # whether the merged vector of round - 1 is kept
    retained: bool = False
    # newest generation that a flag asked to end; it may come before the generation does
    wanted: int = 0
    # a flag was sent or seen in this generation's exchanges: only this one counts (R7)
    latched: bool = False
    # accepted while the user's code ran; taken up at its next call
    pending: Generation | None = None
    # joiners still being given state by this member
    serving: bool = False
    # state digest and number of steps, once AtEnd
    final: tuple[int, str] | None = None
    # End was accepted: nothing counts any more
    stopped: bool = False

    @property
    def number(self) -> int:
        return self.generation.number if self.generation else 0

    @property
    def rank(self) -> int:
        assert self.generation is not None
        return next(k for k, m in enumerate(self.generation.members) if m.trainer == self.trainer)

    @property
    def settled(self) -> bool:
        """Parked in steps() with the optimizer applied; a founder that has not begun is too."""
        return self.at is At.BOUNDARY or (self.at is At.START and self.round >= 0)


# ---- events of the training thread


@dataclass(frozen=True, slots=True)
class Opened:
    """The user's code opened a round."""


@dataclass(frozen=True, slots=True)
class LeafMade:
    """The leaf of a sub-task of the open round is in the store."""

    sub_task: int


@dataclass(frozen=True, slots=True)
class AtBoundary:
    """steps() has come round: the step's rounds are all committed and the optimizer is applied."""


@dataclass(frozen=True, slots=True)
class AtEnd:
    """The last step is committed; `digest` (hex) is of the whole tracked state."""

    steps: int
    digest: str


# ---- events of the data plane; each names the generation whose group it is about


@dataclass(frozen=True, slots=True)
class Exchanged:
    generation: int


@dataclass(frozen=True, slots=True)
class Gathered:
    generation: int
    flag: bool


@dataclass(frozen=True, slots=True)
class VectorCame:
    generation: int


@dataclass(frozen=True, slots=True)
class StateCame:
    """A joiner holds the state at the generation's start, and the retained vector if there is one (R5)."""

    generation: int
    retained: bool


@dataclass(frozen=True, slots=True)
class StateServed:
    generation: int


@dataclass(frozen=True, slots=True)
class OwnGroupFailed:
    generation: int
    reason: str


Event = (
    EndGeneration
    | EnterGeneration
    | RequestBoundary
    | Elected
    | End
    | Opened
    | LeafMade
    | AtBoundary
    | AtEnd
    | Exchanged
    | Gathered
    | VectorCame
    | StateCame
    | StateServed
    | OwnGroupFailed
)

# ---- commands


@dataclass(frozen=True, slots=True)
class Tell:
    message: FromTrainer


@dataclass(frozen=True, slots=True)
class Form:
    """Form the generation's group, then do what the roles ask: give and take state and vectors."""

    generation: Generation
    # ranks that this member gives the vector of round start - 1
    vector_to: tuple[int, ...]
    # ranks that all settled members give the state
    state_to: tuple[int, ...]
    role: Literal["settled", "behind", "joining"]


@dataclass(frozen=True, slots=True)
class Merge:
    """Every own leaf of `round` is there: exchange and gather in the present group, with the latched flag."""

    generation: int
    round: int
    flag: bool


@dataclass(frozen=True, slots=True)
class Close:
    """Close this generation's group at once: its waits end."""

    generation: int


@dataclass(frozen=True, slots=True)
class Resume:
    """Let the training thread go on from START, BOUNDARY or END, or out of a committed round."""


@dataclass(frozen=True, slots=True)
class Stop:
    """End the training thread: TrainerExit at its next call."""

    reason: str


Command = Tell | Form | Merge | Close | Resume | Stop
Outcome = tuple[MemberState, tuple[Command, ...]]
