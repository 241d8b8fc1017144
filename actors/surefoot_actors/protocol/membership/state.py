"""What the membership machine knows, what it is fed, and what it commands."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum

from pydantic import JsonValue

from surefoot.events import EventKind
from surefoot.spec import JobState
from surefoot_actors.protocol.death_cause import DeathCause
from surefoot_actors.protocol.messages import Done, FromTrainer, Generation, Raised, Report, ToTrainer

__all__ = [
    "BeginFrom",
    "CancelStart",
    "CancelTimer",
    "Cancelled",
    "CheckpointsFound",
    "Command",
    "Committed",
    "Emit",
    "Event",
    "Finish",
    "Kill",
    "Lost",
    "MembershipState",
    "MessageReceived",
    "Move",
    "Outcome",
    "PauseRequested",
    "Phase",
    "Record",
    "Reserve",
    "Reserved",
    "Resized",
    "RestoreSourceMissing",
    "RowRecorded",
    "SaveState",
    "Send",
    "SetTimer",
    "StartTrainer",
    "Started",
    "StateSaved",
    "Survivors",
    "Suspected",
    "SuspicionCleared",
    "Timer",
    "TimerFired",
]


class Phase(Enum):
    FORMING = "forming"
    RESERVING = "reserving"
    COLLECTING = "collecting"
    RUNNING = "running"
    CONCLUDING = "concluding"
    # a checkpoint is being read by one trainer, which is to be the founder
    RESTORING = "restoring"
    # all are parked, after the last step or to be paused, and their state is being saved
    SAVING = "saving"
    ENDED = "ended"


class Timer(Enum):
    """What is waited for no longer than for some time (deadlines.py)."""

    # for the rest of the trainers that are wanted, while there are enough to begin
    START_GRACE = "start grace"
    # for members that are stopped or silent, while nobody else holds the state
    PATIENCE = "patience"


@dataclass(frozen=True, slots=True, kw_only=True)
class MembershipState:
    num_sub_tasks: int
    # trainers wanted; min of them are enough to begin
    target: int
    min_trainers: int
    incarnation: int = 1
    # trainers wanted beside the target: ready, and no members
    spares: int = 0
    # losses in a row without a step in between that are borne: a trainer, its replacement, and so on
    max_failures: int = 10
    # whether the state is saved after the last step, before the elected one goes on
    saves: bool = False
    # whether the run is one that goes on from a checkpoint: without a whole one it does not begin
    from_checkpoint: bool = False
    # checkpoints of this job that may be whole, newest first
    checkpoints: tuple[str, ...] = ()
    # whether the shell is still looking for them: nothing is founded before it has told (CheckpointsFound)
    searching: bool = False
    # of these, the ones of another job
    others: frozenset[str] = frozenset()
    # who reads which of them (RESTORING), or has read it and founds the run; None: it begins anew
    restorer: str | None = None
    restoring: str = ""
    # round and step that the restored founder is at
    restored: tuple[int, int] = (0, 0)
    # what was wrong with the newest one that was damaged
    damage: str = ""
    # members that were given notice, and why: they leave at the next boundary, and are replaced
    leaving: Mapping[str, str] = field(default_factory=dict)
    # stop at the next step boundary, save, end as paused
    pausing: bool = False
    # the state after the last step has been saved
    saved: bool = False
    # (round, sub-task): the trainers that died while they computed it, and of what
    deaths: Mapping[tuple[int, int], Mapping[str, str]] = field(default_factory=dict)
    # by trainer: what its code raised, of those that were lost by that, not long ago
    raises: Mapping[str, Raised] = field(default_factory=dict)
    # trainers in a row whose code raised before `steps()`
    num_stillborn: int = 0
    phase: Phase = Phase.FORMING
    # newest reserved number; the newest decided generation
    number: int = 0
    nonce: str = ""
    generation: Generation | None = None
    # asked for, no word yet; with a word (Hello), not members
    starting: tuple[str, ...] = ()
    ready: tuple[str, ...] = ()
    # of those, and of the members that have no state yet: have read a checkpoint, or joined before and were cut short. What they hold is
    # no state to begin anew with
    partial_state: frozenset[str] = frozenset()
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
    # those that are set, and have neither fired nor been cancelled
    timers: frozenset[Timer] = frozenset()
    fingerprint: tuple[tuple[str, str], ...] | None = None
    num_steps: int | None = None
    # the longest row of losses since a step was last known to be new; of those asked for since then: how long the row before each was
    failures_in_row: int = 0
    failure_chain: Mapping[str, int] = field(default_factory=dict)
    # the newest round known, ever, and its step; the newest step of which there is a ledger row
    newest_round: int = 0
    newest_step: int = 0
    newest_row: int = -1
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
class MessageReceived:
    """A trainer's message."""

    message: FromTrainer


@dataclass(frozen=True, slots=True)
class Lost:
    """The trainer's process is dead, for certain."""

    trainer: str
    reason: str
    # (round, sub-task) that it was computing when it died; None: it was not, as far as is known
    computing: tuple[int, int] | None = None
    # of what its code raised; empty: it did not
    traceback: str = ""
    # the last events of its machine, a line each, where the fault is Surefoot's own
    story: tuple[str, ...] = ()
    cause: DeathCause = DeathCause.PROCESS


@dataclass(frozen=True, slots=True)
class Suspected:
    """The trainer is stopped or silent. Only ends the waiting for it (R9)."""

    trainer: str
    reason: str


@dataclass(frozen=True, slots=True)
class SuspicionCleared:
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
class TimerFired:
    """The time is over for which this was set. Not told of a timer that is cancelled, or set anew, before this is handled."""

    timer: Timer


@dataclass(frozen=True, slots=True)
class Started:
    """A trainer's process runs (its train function has not reached `steps()` yet)."""

    trainer: str


@dataclass(frozen=True, slots=True)
class Survivors:
    """A restarted supervisor has found these trainers alive, and this generation in the journal."""

    trainers: tuple[str, ...]
    number: int
    members: tuple[str, ...]
    # the outcome that is recorded; None: there is none
    finished: JobState | None
    # of the trainers that earlier supervisors asked for: their names are not used again
    num_started: int = 0


@dataclass(frozen=True, slots=True)
class Committed:
    """A checkpoint is durable from now on."""

    url: str


@dataclass(frozen=True, slots=True)
class CheckpointsFound:
    """These checkpoints were there already, newest first; all are older than those Committed."""

    urls: tuple[str, ...]
    # of those, the ones of another job: what the run may begin from
    others: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class RestoreSourceMissing:
    """Told in place of CheckpointsFound: the checkpoint that the job is to begin from is not there, or is not for it."""

    reason: str


@dataclass(frozen=True, slots=True)
class RowRecorded:
    """There is a ledger row of this step. Need not be told but before a loss is: losses with steps in between are not held together."""

    step: int


@dataclass(frozen=True, slots=True)
class PauseRequested:
    """Stop at the next step boundary. Told again to a supervisor that is restarted."""


@dataclass(frozen=True, slots=True)
class StateSaved:
    """What SaveState asked for is durable, or is given up on: then `error` says why."""

    error: str = ""


Event = (
    Committed
    | PauseRequested
    | StateSaved
    | CheckpointsFound
    | RestoreSourceMissing
    | RowRecorded
    | MessageReceived
    | Lost
    | Suspected
    | SuspicionCleared
    | Reserved
    | Resized
    | Cancelled
    | TimerFired
    | Started
)

# ---- commands


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
Outcome = tuple[MembershipState, tuple[Command, ...]]
Move = Callable[[MembershipState], Outcome]
