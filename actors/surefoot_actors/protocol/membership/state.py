"""What the membership machine knows: what it is fed is in `events`, what it commands in `commands`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

from surefoot_actors.protocol.messages import Done, Generation, Raised, Report

__all__ = [
    "MembershipState",
    "Phase",
    "Timer",
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
    # groups that failed since then
    num_failed_groups: int = 0
    # of the last move: why there is another generation, or none any more
    reason: str = ""

    @property
    def members(self) -> tuple[str, ...]:
        """Members of the newest generation that are not known to be dead, in rank order."""
        if self.generation is None:
            return ()
        return tuple(m.trainer for m in self.generation.members if m.trainer not in self.lost)

    @property
    def holders(self) -> tuple[str, ...]:
        """Members that hold the run's state and stay, as far as is known: one that joined does once a step of its generation is done."""
        if self.generation is None:
            return ()
        stepped, gone = self.newest_row >= self.newest_step, self.lost | self.suspected | self.leaving.keys()
        members = self.generation.members
        return tuple(m.trainer for m in members if (stepped or m.role != "joining") and m.trainer not in gone)

    @property
    def ended(self) -> bool:
        return self.phase is Phase.ENDED
