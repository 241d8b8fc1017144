"""One trainer's place among the others, and what it holds of the run, under one lock: the commit lock (R1)."""

from __future__ import annotations

import contextlib
import os
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence

import torch

from surefoot_actors.checkpoint.manifest import Point
from surefoot_actors.checkpoint.read import Checkpoint
from surefoot_actors.checkpoint.store import is_at
from surefoot_actors.cluster.ports import TrainerSetup
from surefoot_actors.determinism.fingerprint import fingerprint
from surefoot_actors.engine.exchange.contribution import NO_DRIFT
from surefoot_actors.engine.ports import StateOwner, TrainerExit
from surefoot_actors.engine.types import Layout, Merged, Position
from surefoot_actors.engine.vector.folding import NodeStore
from surefoot_actors.node_data.cache import NodeCache, cache_root
from surefoot_actors.node_data.locks import Holds
from surefoot_actors.process_log import say
from surefoot_actors.protocol.member import machine
from surefoot_actors.protocol.member.machine import At, Command, Event, MemberState, Merge
from surefoot_actors.story import Story
from surefoot_actors.trainer.cross_checks import CrossChecks
from surefoot_actors.trainer.data import TrainerData
from surefoot_actors.trainer.mailbox import Mailbox

__all__ = ["Member"]


class Member:
    """Three kinds of thread meet here: the training thread, which runs the user's code; the control threads, on which the supervisor's
    calls arrive; and the data plane of the present generation. Each takes the commit lock, reads or writes what is held, and feeds the
    machine what has happened: what the machine then commands is performed before the lock is free again. So to report, to promise and
    to close a generation to commits is one act.
    """

    def __init__(
        self, setup: TrainerSetup, device: torch.device, store: tuple[str, int], perform: Callable[[Command], None]
    ) -> None:
        """`store` is where this trainer can host a generation's rendezvous. `perform` does what the machine commands, at once."""
        self.trainer, self.spec, self.device, self.store = setup.trainer, setup.spec, device, store
        self._checkpoints, self._perform = setup.checkpoints, perform
        self.mailbox = Mailbox()
        self._lock = threading.Lock()
        #: notified when the training thread may have something to do
        self.commit_lock = threading.Condition(self._lock)
        self.state = MemberState(trainer=setup.trainer, num_sub_tasks=setup.spec.sub_tasks)
        #: what the machine was fed last
        self.story = Story()
        #: where training is
        self.position = Position(0, 0, 0)
        #: the tracked objects, once there are any; the lock: one transfer of their state at a time
        self.tracked: StateOwner | None = None
        self.owner_lock = threading.Lock()
        #: how many steps the train function asked for, as far as that is known
        self.num_steps: int | None = None
        #: this round's own leaves, folded; the layouts agreed on, by phase; the digest of the state that goes with this round
        self.leaves = NodeStore(setup.spec.sub_tasks)
        self.agreed: dict[int, Layout] = {}
        self.drift = NO_DRIFT
        #: what this trainer computes and shows for cross-checks, and the merge that waits for it
        self.cross_checks = CrossChecks(setup.spec.sub_tasks)
        self.waiting_merge: Merge | None = None
        #: the last committed round's merge; likewise, until all have committed that round (R6)
        self.merged: Merged | None = None
        self.retained: Merged | None = None
        #: the ledger's last row
        self.last: Point | None = None
        #: of the training thread: the line of the inner loop under way; the sub-task that the user's code computes, -1: none; what it
        #: waits for, empty: nothing; and how long a sub-task takes
        self.line = ""
        self.computing = -1
        self.awaits = ""
        self.sub_task_s = 0.0
        #: the job's data, which is a part of the fingerprint
        self.data = TrainerData(
            setup,
            NodeCache(cache_root(os.environ), Holds(self.check_stopped)),
            self.mailbox.tell,
            self._await_data,
            time.monotonic,
        )

    def feed(self, event: Event) -> None:
        """Tell the machine what has happened, and perform what it commands. With the commit lock held, so that both are one act (R1)."""
        assert self._lock.locked(), "the machine is fed under the commit lock"
        commands: Sequence[Command] = ()
        try:
            try:
                self.state, commands = machine.apply(self.state, event)
            finally:
                self.story.note(event, commands)
            for command in commands:
                self._perform(command)
        except Exception as error:
            raise self.story.broken(f"trainer {self.trainer}", error) from error

    def counts(self, generation: int) -> bool:
        """Whether what this generation's data plane has done still counts."""
        return machine.counts(self.state, generation)

    def hold(self, merge: Merge) -> bool:
        """Whether a merge is to wait for a cross-check, which the training thread is to see to first."""
        self.waiting_merge = merge if self.cross_checks.due(self.state) is not None else None
        if self.waiting_merge is not None:
            self.commit_lock.notify_all()
        return self.waiting_merge is not None

    def release(self) -> None:
        """Go on with the merge that has waited, if there is nothing more to wait for."""
        waiting = self.waiting_merge
        if waiting is not None and self.counts(waiting.generation):
            self._perform(waiting)

    @contextlib.contextmanager
    def waiting_until(self, condition: Callable[[], bool], what: str = "the other trainers") -> Iterator[None]:
        """Hold the commit lock once the condition is true. Raises TrainerExit when this trainer is to end."""
        with self.commit_lock:
            while not condition():
                self.check_stopped()
                self.awaits = what
                self.commit_lock.wait()
            self.awaits = ""
            self.check_stopped()
            yield

    def check_stopped(self) -> None:
        """Raise TrainerExit when this trainer is to end."""
        if self.state.stopped:
            raise TrainerExit

    @property
    def is_elected(self) -> bool:
        """Whether this trainer is the one whose files are kept: the first of the generation, and in the end who runs the code after."""
        state = self.state
        if state.at is At.START or state.generation is None:
            return False
        return state.at is At.CONCLUDED or state.generation.members[0].trainer == self.trainer

    def fingerprint(self) -> tuple[tuple[str, str], ...]:
        """What trainers of one run must have in common."""
        return tuple(sorted((*fingerprint(self.device, self.spec.threads), *self.data.fingerprint)))

    def _await_data(self, what: str) -> None:
        self.awaits = what
        self.check_stopped()

    # ---- what checkpoints ask of it

    @property
    def place(self) -> tuple[MemberState, Position]:
        """Where this trainer is."""
        return self.state, self.position

    @property
    def owner(self) -> StateOwner:
        """The tracked state."""
        assert self.tracked is not None
        return self.tracked

    def adopt(self, checkpoint: Checkpoint) -> bool:
        """Overwrite the tracked state, if this trainer may restore one and the checkpoint fits. Raises ContractError."""
        with self.owner_lock:
            with self.commit_lock:
                if not machine.may_restore(self.state):
                    return False
            self.owner.check_image(checkpoint.image)
            try:
                self.owner.restore(checkpoint.image)
            except BaseException:  # noqa: BLE001  half of it is overwritten: such a state is not to found anything
                say(traceback.format_exc())
                os._exit(1)
            # what another job's control plane had not stored is no row of this job's
            self.mailbox.adopt(checkpoint.lines.splitlines() if is_at(checkpoint.url, self._checkpoints) else ())
            manifest = checkpoint.manifest
            self.last = manifest.head.last
            self.position = Position(manifest.round, manifest.step, 0)
            return True
