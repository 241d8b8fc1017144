"""What the training loop asks of a trainer that is one among others. The training thread is the only caller."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from pathlib import Path

from surefoot.events import LedgerRow
from surefoot_actors.cluster.environment import node_kind
from surefoot_actors.engine.exchange.contribution import NO_DRIFT
from surefoot_actors.engine.ports import StateOwner
from surefoot_actors.engine.types import Merged, Node, Position
from surefoot_actors.faults import points as faults
from surefoot_actors.liveness import watchdog_process
from surefoot_actors.logs import capture
from surefoot_actors.output.sync import OutputSync, Pending
from surefoot_actors.protocol.member import machine
from surefoot_actors.protocol.member.machine import At
from surefoot_actors.protocol.messages import Hello, Length
from surefoot_actors.system_metrics import counters
from surefoot_actors.trainer.checkpoints.schedule import CheckpointSchedule
from surefoot_actors.trainer.member import Member
from surefoot_actors.trainer.once import OnceRequests
from surefoot_actors.user_code.lines import user_line

__all__ = ["FILES_S", "TrainingSide"]

# How long the end of training waits for files to be kept, before it goes on.
FILES_S = 300.0
# How much a new measurement of the seconds a sub-task takes weighs against the earlier ones.
_PACE = 0.2


class TrainingSide:
    """Implements `engine.ports.Coordinator`: tells the member where training has come to, and waits for what it is to do next."""

    def __init__(self, member: Member, schedule: CheckpointSchedule, onces: OnceRequests, output: OutputSync) -> None:
        self._member, self._schedule, self._onces, self._output = member, schedule, onces, output
        # when the sub-task under way began
        self._began: float | None = None
        # how many of the step's sub-tasks were computed here
        self._num_computed = 0
        #: of the sub-task that was handed out last
        self.is_own, self.is_compared = True, False

    def admit(self, state: StateOwner, num_steps: int | None) -> Position:
        """Say hello and wait to be a member whose tracked state is the run's."""
        member = self._member
        member.tracked, member.num_steps = state, num_steps
        faults.point("hello", -1)
        member.mailbox.tell(
            Hello(
                trainer=member.trainer,
                store=member.store,
                fingerprint=member.fingerprint(),
                pid=os.getpid(),
                node=socket.gethostname(),
                num_steps=num_steps,
                node_kind=node_kind(os.environ),
            )
        )
        with member.waiting_until(lambda: member.state.at is not At.START):
            pass
        member.data.note()
        with member.owner_lock:  # a dead generation may still be writing what it restores
            return member.position

    def set_num_steps(self, num_steps: int) -> None:
        """Take note of how long the run is, and tell it."""
        self._member.num_steps = num_steps
        self._member.mailbox.tell(Length(trainer=self._member.trainer, num_steps=num_steps))

    def once(self, key: str, prepare: Callable[[], object]) -> None:
        """Return when one trainer of the job has done this."""
        self._onces.once(key, prepare, self._await)

    def node_once(self, key: str, prepare: Callable[[], object]) -> None:
        """Return when one trainer of this node has done this."""
        self._onces.node_once(key, prepare, self._await)

    def _await(self, what: str) -> None:
        self._member.awaits = what

    def output_dir(self) -> Path:
        """Return this trainer's folder for files; on whoever is elected it has the job's."""
        folder = self._output.folder()
        self.elected()
        return folder

    def elected(self) -> bool:
        """Whether the files of this trainer are those that are kept."""
        if not self._member.is_elected:
            return False
        self._have_files(self._member.position.step)
        return True

    def _have_files(self, step: int) -> None:
        self._member.awaits = "the job's files"
        self._output.ready(step)
        self._member.awaits = ""

    def _keep_files(self, step: int, *, checkpoint: bool) -> Pending | None:
        """Before this step: have what is new uploaded in the background, if it is time."""
        if not self._output.is_used or not self._member.is_elected:
            return None
        self._have_files(step)
        return self._output.boundary(step, checkpoint=checkpoint)

    def open_round(self, position: Position, *, checks: bool = False) -> None:
        """Begin a round. `checks`: its sub-tasks may be computed on two trainers, to be compared."""
        member = self._member
        member.line = user_line()
        capture.begin_step(position.step)
        drift = member.owner.stripe_digest(position.step) if position.phase == 0 else NO_DRIFT
        with member.commit_lock:
            member.check_stopped()
            assert position.round == member.state.round, "the training loop and the protocol count rounds differently"
            member.position, member.drift = position, drift
            member.leaves.clear()
            member.cross_checks.open_round(position.step, member.num_steps, checks=checks)
            member.feed(machine.Opened())

    def next_sub_task(self) -> int | None:
        """Return the next sub-task to compute here, or None when the round is committed."""
        member = self._member
        with member.waiting_until(lambda: member.state.at is At.USER or self._next() is not None):
            if member.state.at is not At.USER:
                sub_task = self._next()
                assert sub_task is not None
                self.is_own = machine.next_sub_task(member.state) is not None
                self.is_compared = not self.is_own or member.cross_checks.compares(member.state, sub_task)
                self._began = time.monotonic() if self.is_own else None
                member.computing = sub_task
                if self.is_own:  # two that compute the same sub-task at once may die of one cause that is none of its
                    watchdog_process.mark(member.position.round, sub_task)
                return sub_task
            member.cross_checks.committed(member.position.round)
        faults.point("commit", member.position.step)
        return None

    def _next(self) -> int | None:
        """The next sub-task: one of its own, or one that a merge waits for, to be compared."""
        member = self._member
        own = machine.next_sub_task(member.state)
        return own if own is not None or member.waiting_merge is None else member.cross_checks.due(member.state)

    def show(self, sub_task: int, digest: bytes) -> None:
        """Keep what a compared sub-task has come to; a merge that has waited for it goes on."""
        member = self._member
        if not self.is_own:
            member.computing = -1
        with member.commit_lock:
            member.cross_checks.show(sub_task, digest)
            member.release()

    def put_leaf(self, leaf: Node) -> None:
        """Hand over a leaf; nobody else's concern if it was given to another meanwhile."""
        member, sub_task = self._member, leaf.range.lo
        member.computing = -1
        watchdog_process.mark(-1, -1)
        with member.commit_lock:
            self._measure()
            self._num_computed += member.position.phase == 0
            if member.state.at is At.ROUND and member.state.own >> sub_task & 1:
                member.leaves.put(leaf)
                member.feed(machine.LeafMade(sub_task))

    def _measure(self) -> None:
        if self._began is not None:
            took, before = time.monotonic() - self._began, self._member.sub_task_s
            self._member.sub_task_s = took if not before else (1 - _PACE) * before + _PACE * took
            self._began = None

    def merged(self) -> Merged:
        """Return the committed round's merge."""
        assert self._member.merged is not None
        return self._member.merged

    def end_step(self, row: LedgerRow) -> None:
        """Record the step's row; joins and leaves happen here."""
        member = self._member
        counters.stepped(row.result.num_samples * self._num_computed / member.spec.sub_tasks)
        self._num_computed = 0
        faults.point("boundary", row.result.step)
        member.mailbox.keep(row)
        with member.commit_lock:
            member.check_stopped()
            member.position = Position(member.state.round, row.result.step + 1, 0)
            share = self._schedule.end_step(row)
        files = self._keep_files(row.result.step + 1, checkpoint=share is not None)
        if share is not None:
            self._schedule.snapshot(share, files)
        with member.commit_lock:
            member.check_stopped()
            member.feed(machine.AtBoundary())
        with member.waiting_until(lambda: member.state.at is At.USER):
            pass

    def finish(self, num_steps: int) -> None:
        """Return on the trainer that is elected to run the code after the loop; raise TrainerExit on the others."""
        member = self._member
        member.num_steps = num_steps
        digest = member.owner.digest().hex()
        if self._output.is_used and member.is_elected:
            self._have_files(num_steps)
            self._output.sync(num_steps, FILES_S)
        with member.commit_lock:
            member.check_stopped()
            member.feed(machine.AtEnd(num_steps, digest))
        with member.waiting_until(lambda: member.state.at is At.CONCLUDED):
            pass
        faults.point("conclude", num_steps)
        if self._output.is_used:
            self._have_files(num_steps)

    @property
    def generation(self) -> int:
        """The present generation's number."""
        return self._member.state.number

    @property
    def trainers(self) -> int:
        """How many members it has."""
        generation = self._member.state.generation
        return len(generation.members) if generation else 0
