"""A world for the two machines: trainers, their threads and data plane, a supervisor, its journal, and messages under way.

Worlds are immutable and hashable. `Draft` is one being changed; `world()` brings it into canonical form, in which messages that
nobody heeds any more are gone.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

from surefoot.spec import JobState
from surefoot_actors.protocol.membership.machine import Timer

__all__ = [
    "ASLEEP",
    "AWAKE",
    "Bounds",
    "Budget",
    "Draft",
    "Journal",
    "Label",
    "Move",
    "Supervisor",
    "Trainer",
    "Violation",
    "World",
]

# Where a training thread is, besides a mask of the sub-tasks that it is computing.
AWAKE, ASLEEP = -1, -2

Label = tuple[Any, ...]


class Violation(AssertionError):
    """An invariant is broken. `story` is how it came to that."""

    story: tuple[Label, ...] = ()

    def __str__(self) -> str:
        lines = (f"{k:3}. {' '.join(map(str, label))}" for k, label in enumerate(self.story, 1))
        return "\n".join((super().__str__(), *lines))


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """How large a world is, and what may happen in it."""

    trainers: int = 2
    # how many trainers beyond the first ones the cluster has room for
    spares: int = 0
    min_trainers: int = 1
    sub_tasks: int = 2
    # rounds of each step
    steps: tuple[int, ...] = (1, 1)
    crashes: int = 0
    # live trainers that stop for a while, perhaps for ever
    freezes: int = 0
    supervisor_crashes: int = 0
    # targets asked for, one after the other
    resizes: tuple[int, ...] = ()
    # messages told twice
    doubles: int = 0
    # process groups that fail though everyone lives
    breaks: int = 0
    # trainers kept ready beside those that train
    warm: int = 0
    # trainers that are given notice
    notices: int = 0
    # checkpoints that come to be while training goes on; those that there are from the beginning, by the round they go on with
    checkpoints: int = 0
    stored: tuple[int, ...] = ()
    # checkpoints that rot
    damages: int = 0
    # whether the state after the last step is saved
    saves: bool = False
    # requests to pause
    pauses: int = 0
    # trainers whose code raises what nobody else's does; (round, sub-task) in which everybody's does
    raises: int = 0
    bug: tuple[int, int] | None = None
    # sub-tasks are computed one by one, so that a generation may end between any two
    fine: bool = False
    # begin where the first generation trains
    founded: bool = True

    @cached_property
    def room(self) -> int:
        return self.trainers + self.spares

    @cached_property
    def all_sub_tasks(self) -> int:
        return (1 << self.sub_tasks) - 1

    @cached_property
    def ends(self) -> tuple[int, ...]:
        """The round after each step's last one."""
        return tuple(sum(self.steps[: k + 1]) for k in range(len(self.steps)))


class Trainer(NamedTuple):
    """One trainer process."""

    # none, starting, live, raised (its code has ended, the process lives), dead (crashed or killed), ended (told to)
    life: str = "none"
    machine: int = -1
    thread: int = AWAKE
    # the thread has passed the boundary before this round
    fresh: bool = False
    # sub-tasks of the present round computed here, ever
    ever: int = 0
    # generation whose group is open here
    group: int = -1
    # what the group does: "-", "give" and "take" state, "miss" a vector, "exchange", "gather", "broken"
    op: str = "-"
    # what this trainer contributes to the exchange, or its merged slice: (round, mask | right, flag)
    piece: tuple[int, int, bool] | None = None
    returned: bool = False
    # a state may have been copied into it in part
    half: bool = False
    # the round that the tracked state belongs to, as long as it is nobody's but its own
    holds: int = 0
    # an event of a closed group that is still under way to the machine
    late: Any = None


class Supervisor(NamedTuple):
    up: bool
    machine: int
    # trainers that it was told are suspected
    told: int = 0
    # who is saving the state (SaveState)
    saving: tuple[str, ...] = ()
    # clocks that it was commanded to set, each of which may be over at any moment
    timers: frozenset[Timer] = frozenset()


class Journal(NamedTuple):
    """What outlives supervisors."""

    incarnation: int = 1
    counter: int = 0
    # newest generation recorded, -1: none
    recorded: int = -1
    # the outcome
    finished: JobState | None = None
    # whole checkpoints, and those that are damaged, by the round they go on with
    stored: frozenset[int] = frozenset()
    damaged: frozenset[int] = frozenset()
    # somebody has asked for a pause
    pause: bool = False


class Budget(NamedTuple):
    """What may still go wrong."""

    crashes: int
    freezes: int
    supervisor_crashes: int
    resizes: int
    doubles: int
    breaks: int
    notices: int
    checkpoints: int
    damages: int
    pauses: int
    raises: int
    spares: int

    def spend(self, name: str) -> Budget:
        return self._replace(**{name: getattr(self, name) - 1})


class World(NamedTuple):
    trainers: tuple[Trainer, ...]
    supervisor: Supervisor
    journal: Journal
    # ("to", trainer, message), ("from", trainer, message), ("kill", trainer, 0)
    control: frozenset[tuple[str, int, int]]
    # (group, kind, source, destination, what)
    data: frozenset[tuple[int, str, int, int, Any]]
    budget: Budget
    target: int
    # trainers that do not act, perhaps
    frozen: int
    # newest generation decided, and the highest number told to anybody: known to nobody in the world
    latest: int
    told: int
    # ledger rows: (key, step)
    rows: frozenset[tuple[Any, int]]


class Move(NamedTuple):
    label: Label
    # whether it is bound to happen, sooner or later
    certain: bool
    world: World


class Draft:
    """A world being changed."""

    __slots__ = World._fields

    trainers: tuple[Trainer, ...]
    supervisor: Supervisor
    journal: Journal
    control: frozenset[tuple[str, int, int]]
    data: frozenset[tuple[int, str, int, int, Any]]
    budget: Budget
    target: int
    frozen: int
    latest: int
    told: int
    rows: frozenset[Any]

    def __init__(self, world: World) -> None:
        (
            self.trainers,
            self.supervisor,
            self.journal,
            self.control,
            self.data,
            self.budget,
            self.target,
            self.frozen,
            self.latest,
            self.told,
            self.rows,
        ) = world

    def put(self, i: int, trainer: Trainer) -> None:
        self.trainers = (*self.trainers[:i], trainer, *self.trainers[i + 1 :])

    def send(self, way: str, i: int, message: int) -> None:
        self.control |= {(way, i, message)}

    def spend(self, name: str) -> None:
        self.budget = self.budget.spend(name)

    def world(self) -> World:
        return World(
            self.trainers,
            self.supervisor,
            self.journal,
            self.control,
            self.data,
            self.budget,
            self.target,
            self.frozen,
            self.latest,
            self.told,
            self.rows,
        )
