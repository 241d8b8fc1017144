"""Where trainers live, as the supervisor sees it: one port, implemented over Ray and over plain local processes.

`TrainerService` is what a trainer process serves; `TrainerHandle` is the supervisor's end of it. The supervisor is the only caller.
Messages to a trainer are idempotent, messages from it are numbered and kept until acknowledged, so a lost call or reply harms nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from surefoot.events import FaultKind, LedgerRow
from surefoot.output import DEFAULT_MAX_OUTPUT_BYTES
from surefoot.spec import JobSpec
from surefoot_actors.protocol.death_cause import DeathCause
from surefoot_actors.protocol.messages import FromTrainer, ToTrainer
from surefoot_actors.sealed import Sealed

__all__ = [
    "Cluster",
    "Inbox",
    "SetupFailedError",
    "TrainerGoneError",
    "TrainerHandle",
    "TrainerService",
    "TrainerSetup",
    "Where",
]


class TrainerGoneError(Exception):
    """The trainer's process is dead, for certain. `reason` says how, as far as is known ("killed by signal 9", "out of memory")."""

    def __init__(self, reason: str, cause: DeathCause = DeathCause.PROCESS) -> None:
        super().__init__(reason)
        self.reason, self.cause = reason, cause

    def __reduce__(self) -> tuple[type[TrainerGoneError], tuple[Any, ...]]:
        return TrainerGoneError, (self.reason, self.cause)


class SetupFailedError(TrainerGoneError):
    """The trainer never came to be: its node could not be set up for it.

    `requirements`: pip's own words, if it is the job's requirements that cannot be installed, wherever that is tried; empty: something
    else was wrong on this node (`node`: its address, as far as is known).
    """

    def __init__(self, reason: str, requirements: str = "", node: str = "") -> None:
        super().__init__(reason, DeathCause.SETUP)
        self.requirements, self.node = requirements, node

    def __reduce__(self) -> tuple[type[TrainerGoneError], tuple[Any, ...]]:
        return SetupFailedError, (self.reason, self.requirements, self.node)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainerSetup:
    """All that a trainer process needs to start."""

    attempt: str
    trainer: str
    spec: JobSpec
    # host:port of the supervisor's liveness server (see liveness/server.py)
    liveness: tuple[str, int]
    # proves to the liveness server that the watchdog belongs to this attempt; a cluster gives it to the trainer beside the setup
    liveness_secret: Sealed | None = None
    # where the job's checkpoints lie, of all its attempts: a folder or an fsspec URL; empty: nowhere
    checkpoints: str = ""
    # files of `run.output_dir` that are kept of the job, together
    max_output_bytes: int = DEFAULT_MAX_OUTPUT_BYTES
    # names the attempt, and nothing else on any node; empty in tests that need none
    run_id: str = ""
    # whether what it prints is shipped to the server that `liveness` names
    logs: bool = False
    # earlier trainers on whose machines this one should not be, if there are others
    apart_from: tuple[str, ...] = ()
    # faults to inject, for tests: see faults/points.py. Empty in production.
    faults: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Inbox:
    """What a trainer has to say since the last call."""

    # (n, message), n counting from 1 and without gaps
    messages: tuple[tuple[int, FromTrainer], ...] = ()
    # ledger rows not yet acknowledged, oldest first, at most 10,000; only from the generation's rank 0
    rows: tuple[LedgerRow, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Where:
    """Where a trainer's training thread is."""

    # -1: before its first step
    step: int = -1
    # that the user's code computes, -1: none
    sub_task: int = -1
    # "file.py:12", the innermost line of the user's own code
    line: str = ""
    # what it waits for, if it does; empty: it is up to this trainer
    waits_for: str = ""


class TrainerService(Protocol):
    """What runs in the trainer's process (trainer/trainer.py). Methods are called from control threads, at most one `collect` at a time."""

    def start(self) -> None:
        """Start the training thread. Doubled calls do nothing."""

    def deliver(self, message: ToTrainer) -> None:
        """Take a message; never blocks for long."""

    def collect(self, after: int, rows_below: int, wait_s: float) -> Inbox:
        """Return messages with n > after, forgetting those up to `after` and ledger rows of steps below `rows_below`.

        Blocks until there is a message, or `wait_s` has passed (then rows, if any, are in the answer). So what flows to the
        supervisor grows with seconds, not with steps.
        """

    def where(self) -> Where:
        """Say where the training thread is. Never blocks."""

    def notice(self, reason: str) -> None:
        """Ask the supervisor to let it leave at a step boundary: this process, or its node, is about to go. Never blocks for long."""


class TrainerHandle(Protocol):
    """The supervisor's end. All methods raise TrainerGoneError once the process is dead, within ~50 ms of its death even mid-call."""

    # id of its node; empty: not known
    node: str

    @property
    def trainer(self) -> str: ...

    async def deliver(self, message: ToTrainer) -> None: ...

    async def collect(self, after: int, rows_below: int, wait_s: float) -> Inbox: ...

    async def where(self) -> Where: ...

    def refusal(self, fault: FaultKind) -> str:
        """Why this fault cannot be injected here at present; empty: it can."""

    async def inject(self, fault: FaultKind) -> None:
        """Do this to the process, or to its node, for real. Raises FaultRefusedError where that cannot be done here."""

    async def kill(self) -> None:
        """End the process (SIGKILL; a stopped one too) and return when it is gone. Never raises; doubled calls do nothing."""


class Cluster(Protocol):
    """Starts trainers and finds those that an earlier supervisor started."""

    # whether the job's pip requirements are installed before a trainer starts
    installs: bool
    # called on the supervisor's event loop with (trainer, reason) when the trainer's node is about to go
    on_notice: Callable[[str, str], None]
    # called there with a sentence on trainers that wait for a node, whenever it changes; empty: none waits any more
    on_waiting: Callable[[str], None]

    async def start_trainer(self, setup: TrainerSetup) -> TrainerHandle:
        """Start a trainer process; returns when the cluster has given it a place and its service answers.

        May wait without end for resources; cancelling the call withdraws the request and leaves nothing behind.
        Raises SetupFailedError if its node could not be set up for it, TrainerGoneError if the process died in starting.
        """

    async def find_trainers(self) -> list[TrainerHandle]:
        """Trainers of this attempt that live, whoever started them."""

    async def close(self) -> None:
        """End every trainer of this attempt and return when all are gone."""
