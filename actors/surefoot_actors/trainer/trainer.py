"""The trainer's shell: performs what the member machine commands, and feeds it what happens.

Three kinds of thread meet here under one lock, the commit lock (R1): the training thread, which runs the user's code and calls the
`Coordinator` methods; the control threads, on which the supervisor's calls arrive; and the data plane of the present generation.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

import torch

from surefoot.errors import ContractError, DriftError, EntrypointError
from surefoot.events import LedgerRow
from surefoot_actors.checkpoint.read import Checkpoint
from surefoot_actors.checkpoint.store import is_at
from surefoot_actors.cluster.ports import Inbox, TrainerSetup, Where
from surefoot_actors.determinism.fingerprint import fingerprint, make_deterministic
from surefoot_actors.determinism.rng import Streams
from surefoot_actors.engine.contract.run import RunOptions, run_training
from surefoot_actors.engine.data.pool import DataWorkersLostError
from surefoot_actors.engine.exchange.alone import MergeResult
from surefoot_actors.engine.exchange.header import ExchangeError
from surefoot_actors.engine.group.group import StoreHost
from surefoot_actors.engine.ports import StateOwner, TrainerExit
from surefoot_actors.engine.types import Layout, Merged, Node, Position, StateImage
from surefoot_actors.engine.vector.folding import NodeStore
from surefoot_actors.engine.vector.pools import BufferPool
from surefoot_actors.faults import points as faults
from surefoot_actors.liveness import watchdog_process
from surefoot_actors.protocol.member import machine as member
from surefoot_actors.protocol.member.machine import At, Close, Form, MemberState, Merge, Resume, Stop, Tell
from surefoot_actors.protocol.messages import (
    Done,
    Ended,
    EndGeneration,
    EnterGeneration,
    Hello,
    Length,
    NoticeGiven,
    OnceTold,
    Raised,
    Report,
    Restore,
    Returned,
    Save,
    Snapshot,
    ToTrainer,
)
from surefoot_actors.protocol.spans import covers
from surefoot_actors.trainer.checkpoints.schedule import Keeping
from surefoot_actors.trainer.data_plane import Backpack, DataPlane, Round
from surefoot_actors.trainer.mailbox import Mailbox
from surefoot_actors.trainer.once import Onces
from surefoot_actors.user_code import tracebacks, train_function
from surefoot_actors.user_code.advice import told_exit, with_advice
from surefoot_actors.user_code.lines import own_line, raised_line, user_line

__all__ = ["TrainerProcess"]

# How much a new measurement of the seconds a sub-task takes weighs against the earlier ones.
_PACE = 0.2
_NO_DRIFT = bytes(16)


class TrainerProcess:
    """One trainer: serves `cluster.TrainerService` to the supervisor and `engine.ports.Coordinator` to the training loop."""

    def __init__(self, setup: TrainerSetup) -> None:
        self._setup, self._spec = setup, setup.spec
        faults.arm(setup.faults, setup.trainer, os.environ.get("SUREFOOT_FAULTS_FIRED", ""))
        make_deterministic(setup.spec.threads)
        self._device = _device(setup.spec.resources.gpus)
        self._address = os.environ.get("SUREFOOT_HOST", "127.0.0.1")
        self._store_host = StoreHost(self._address)
        self._mailbox = Mailbox()
        self._keeping = Keeping(setup, self._device, self._mailbox, self._fingerprint, self)
        self._changed = threading.Condition(threading.Lock())  # its lock is the commit lock
        self._onces = Onces(setup.trainer, setup.run_id, self._changed, self._mailbox.tell)
        self._state = MemberState(trainer=setup.trainer, num_sub_tasks=setup.spec.sub_tasks)
        self._plane: DataPlane | None = None
        self._leaves = NodeStore(setup.spec.sub_tasks)
        self._owner: StateOwner | None = None
        self._owner_lock = threading.Lock()  # one transfer of tracked state at a time
        self._position = Position(0, 0, 0)
        self._drift = _NO_DRIFT
        # of the user's inner loop that is under way
        self._line = ""
        self._agreed: dict[int, Layout] = {}
        self._merged: Merged | None = None
        self._retained: Merged | None = None
        self._sub_task_s = 0.0
        self._began: float | None = None
        self._num_steps: int | None = None
        # the sub-task that the user's code computes, -1: none
        self._computing = -1
        # what the training thread waits for, empty: nothing
        self._awaits = ""
        self._thread: threading.Thread | None = None
        self._returned = False
        self.start()

    # ---- TrainerService: called by the supervisor, on control threads

    def start(self) -> None:
        """Start the training thread. Doubled calls do nothing."""
        with self._changed:
            if self._thread is not None:
                return
            self._thread = threading.Thread(target=self._train, name="training", daemon=True)
        self._thread.start()

    def deliver(self, message: ToTrainer) -> None:
        """Take a message; never blocks for long."""
        if isinstance(message, EndGeneration | EnterGeneration):
            faults.point("report" if isinstance(message, EndGeneration) else "enter", self._position.step)
        with self._changed:
            if isinstance(message, OnceTold):
                self._onces.told(message)
                return
            if isinstance(message, Restore | Snapshot | Save):
                if message.incarnation >= self._state.incarnation:
                    self._keeping.obey(message)
                return
            self._feed(message)

    def collect(self, after: int, rows_below: int, wait_s: float) -> Inbox:
        """Return what this trainer has to say: see `cluster.TrainerService.collect`."""
        return self._mailbox.collect(after, rows_below, wait_s, self._tells_rows())

    def notice(self, reason: str) -> None:
        """Ask to leave: this process, or its node, is about to go."""
        self._mailbox.tell(NoticeGiven(trainer=self._setup.trainer, reason=reason))

    def where(self) -> Where:
        """Say where the training thread is, and at which line of the user's. Takes no lock: whoever holds one may be what hangs."""
        ident = self._thread.ident if self._thread is not None else None
        frame = sys._current_frames().get(ident) if ident is not None else None
        state = self._state
        return Where(
            step=self._position.step if state.round >= 0 else -1,
            sub_task=self._computing,
            line=own_line(frame),
            waits_for=self._awaits if self._computing < 0 or state.at is not At.ROUND else "",
        )

    def _tells_rows(self) -> bool:
        state = self._state
        over = state.at in (At.END, At.CONCLUDED)
        return over or (state.generation is not None and state.round >= 0 and state.rank == 0)

    # ---- the machine: every call with the commit lock held

    def _feed(self, event: member.Event) -> None:
        self._state, commands = member.apply(self._state, event)
        for command in commands:
            self._perform(command)

    def _perform(self, command: member.Command) -> None:
        match command:
            case Tell(message=message):
                self._mailbox.tell(self._completed(message) if isinstance(message, Report) else message)
                if isinstance(message, Done) and self._plane is not None:
                    self._plane.say_done()
            case Form():
                self._check_place(command)
                self._plane = DataPlane(
                    self,
                    command,
                    self._state.rank,
                    num_sub_tasks=self._spec.sub_tasks,
                    device=self._device,
                    address=self._address,
                )
            case Merge(flag=flag):
                self._start_merge(flag)
            case Close():
                if self._plane is not None:
                    self._plane.close()
                    self._plane = None
            case Resume():
                self._changed.notify_all()
            case Stop():
                self._keeping.stop()
                self._onces.stop()
                self._changed.notify_all()
                if self._returned:
                    self._mailbox.tell(Ended(trainer=self._setup.trainer))

    def _check_place(self, form: Form) -> None:
        """End this process, to be replaced, if it is to be at a place where its state is not: it restored what nobody goes on from."""
        start = form.generation.start
        if form.role == "settled" and self._position.round != start:
            here = self._position.round
            sys.stderr.write(f"this trainer's state is of round {here}, its generation starts with {start}\n")
            os._exit(1)

    def _completed(self, report: Report) -> Report:
        return replace(
            report,
            sub_task_s=self._sub_task_s,
            store=self._store_host.address,
            step=self._position.step,
            num_steps=self._num_steps,
            fingerprint=self._fingerprint(),
        )

    def _fingerprint(self) -> tuple[tuple[str, str], ...]:
        return fingerprint(self._device, self._spec.threads)

    def _start_merge(self, flag: bool) -> None:
        assert self._plane is not None
        assert self._state.generation is not None
        assert self._owner is not None
        round_, step, phase = self._position
        self._plane.merge(
            Round(
                number=round_,
                step=step,
                phase=phase,
                covers=covers(self._state.generation, round_, self._spec.sub_tasks),
                nodes=dict(self._leaves.nodes()),
                flag=flag,
                snapshot=self._keeping.wanted,
                busy=self._keeping.busy,
                drift=self._drift,
                look=partial(self._owner.table, step),
                agreed=self._agreed.get(phase),
            )
        )

    # ---- Coordinator: called by the training thread

    def admit(self, state: StateOwner, num_steps: int | None) -> Position:
        """Say hello and wait to be a member whose tracked state is the run's."""
        self._owner, self._num_steps = state, num_steps
        faults.point("hello", -1)
        self._mailbox.tell(
            Hello(
                trainer=self._setup.trainer,
                store=self._store_host.address,
                fingerprint=self._fingerprint(),
                pid=os.getpid(),
                node=socket.gethostname(),
                num_steps=num_steps,
            )
        )
        with self._waiting_until(lambda: self._state.at is not At.START):
            pass
        with self._owner_lock:  # a dead generation may still be writing what it restores
            return self._position

    def set_num_steps(self, num_steps: int) -> None:
        """Take note of how long the run is, and tell it."""
        self._num_steps = num_steps
        self._mailbox.tell(Length(trainer=self._setup.trainer, num_steps=num_steps))

    def once(self, key: str, prepare: Callable[[], object]) -> None:
        """Return when one trainer of the job has done this."""
        self._onces.once(key, prepare, self._await)

    def node_once(self, key: str, prepare: Callable[[], object]) -> None:
        """Return when one trainer of this node has done this."""
        self._onces.node_once(key, prepare, self._await)

    def _await(self, what: str) -> None:
        self._awaits = what

    def open_round(self, position: Position) -> None:
        """Begin a round."""
        assert self._owner is not None
        self._line = user_line()
        drift = self._owner.stripe_digest(position.step) if position.phase == 0 else _NO_DRIFT
        with self._changed:
            self._check_stopped()
            assert position.round == self._state.round, "the training loop and the protocol count rounds differently"
            self._position, self._drift = position, drift
            self._leaves.clear()
            self._feed(member.Opened())

    def next_sub_task(self) -> int | None:
        """Return the next sub-task to compute here, or None when the round is committed."""
        with self._waiting_until(lambda: self._state.at is At.USER or member.next_sub_task(self._state) is not None):
            if self._state.at is not At.USER:
                sub_task = member.next_sub_task(self._state)
                assert sub_task is not None
                self._began = time.monotonic()
                self._computing = sub_task
                watchdog_process.mark(self._position.round, sub_task)
                return sub_task
        faults.point("commit", self._position.step)
        return None

    def put_leaf(self, leaf: Node) -> None:
        """Hand over a leaf; nobody else's concern if it was given to another meanwhile."""
        sub_task = leaf.range.lo
        self._computing = -1
        watchdog_process.mark(-1, -1)
        with self._changed:
            self._measure()
            if self._state.at is At.ROUND and self._state.own >> sub_task & 1:
                self._leaves.put(leaf)
                self._feed(member.LeafMade(sub_task))

    def _measure(self) -> None:
        if self._began is not None:
            took = time.monotonic() - self._began
            self._sub_task_s = took if not self._sub_task_s else (1 - _PACE) * self._sub_task_s + _PACE * took
            self._began = None

    def merged(self) -> Merged:
        """Return the committed round's merge."""
        assert self._merged is not None
        return self._merged

    def end_step(self, row: LedgerRow) -> None:
        """Record the step's row; joins and leaves happen here."""
        faults.point("boundary", row.result.step)
        self._mailbox.keep(row)
        with self._changed:
            self._check_stopped()
            self._position = Position(self._state.round, row.result.step + 1, 0)
            share = self._keeping.end_step(row)
        if share is not None:
            self._keeping.snapshot(share)
        with self._changed:
            self._check_stopped()
            self._feed(member.AtBoundary())
        with self._waiting_until(lambda: self._state.at is At.USER):
            pass

    def finish(self, num_steps: int) -> None:
        """Return on the trainer that is elected to run the code after the loop; raise TrainerExit on the others."""
        assert self._owner is not None
        self._num_steps = num_steps
        digest = self._owner.digest().hex()
        with self._changed:
            self._check_stopped()
            self._feed(member.AtEnd(num_steps, digest))
        with self._waiting_until(lambda: self._state.at is At.CONCLUDED):
            pass
        faults.point("conclude", num_steps)

    @property
    def generation(self) -> int:
        """The present generation's number."""
        return self._state.number

    @property
    def trainers(self) -> int:
        """How many members it has."""
        return len(self._state.generation.members) if self._state.generation else 0

    @contextlib.contextmanager
    def _waiting_until(self, condition: Callable[[], bool]) -> Iterator[None]:
        """Hold the commit lock once the condition is true. Raises TrainerExit when this trainer is to end."""
        with self._changed:
            while not condition():
                self._check_stopped()
                self._awaits = "the other trainers"
                self._changed.wait()
            self._awaits = ""
            self._check_stopped()
            yield

    def _check_stopped(self) -> None:
        if self._state.stopped:
            raise TrainerExit

    # ---- Host: called by the data plane's thread of some generation, perhaps a dead one

    def capture(self) -> tuple[StateImage, Backpack, Merged | None]:
        """Return what a joiner needs. The training thread is parked meanwhile."""
        assert self._owner is not None
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)  # the training thread may have computed on a stream of its own
        with self._owner_lock:
            retained = self._retained
            pack = Backpack(
                step=self._position.step,
                agreed=dict(self._agreed),
                retained=retained is not None,
                rows=b"\n".join(self._mailbox.kept().lines()),
                last=self._keeping.last,
            )
            return self._owner.capture(), pack, retained

    def restore(self, generation: int, image: StateImage, backpack: Backpack) -> None:
        """Overwrite this joiner's tracked state. It is still waiting to be admitted."""
        assert self._owner is not None
        with self._owner_lock:
            if not member.counts(self._state, generation):
                return
            self._keeping.overwritten()
            self._owner.restore(image)
            if not member.counts(self._state, generation):
                return
            self._agreed = dict(backpack.agreed)
            self._mailbox.adopt(backpack.rows.splitlines())
            self._keeping.last = backpack.last
            assert self._state.generation is not None
            self._position = Position(self._state.generation.start, backpack.step, 0)

    # ---- what checkpoints ask of the trainer

    @property
    def place(self) -> tuple[MemberState, Position]:
        """Where this trainer is."""
        return self._state, self._position

    @property
    def owner(self) -> StateOwner:
        """The tracked state."""
        assert self._owner is not None
        return self._owner

    @property
    def num_steps(self) -> int | None:
        """How many steps the train function asked for, as far as that is known."""
        return self._num_steps

    def adopt(self, checkpoint: Checkpoint) -> bool:
        """Overwrite the tracked state, if this trainer may restore one and the checkpoint fits. Raises ContractError."""
        with self._owner_lock:
            with self._changed:
                if not member.may_restore(self._state):
                    return False
            self.owner.check_image(checkpoint.image)
            try:
                self.owner.restore(checkpoint.image)
            except BaseException:  # noqa: BLE001  half of it is overwritten: such a state is not to found anything
                traceback.print_exc()
                os._exit(1)
            # what another job's control plane had not stored is no row of this job's
            self._mailbox.adopt(checkpoint.lines.splitlines() if is_at(checkpoint.url, self._setup.checkpoints) else ())
            manifest = checkpoint.manifest
            self._keeping.last = manifest.head.last
            self._position = Position(manifest.round, manifest.step, 0)
            return True

    def retained_vector(self) -> Merged:
        """Return the merged vector of the round before."""
        retained = self._retained
        assert retained is not None
        return retained

    def vector_came(self, generation: int, merged: Merged) -> None:
        """Commit a round by the vector that this member missed."""
        with self._changed:
            if member.counts(self._state, generation):
                self._keep(merged, merged.layout)
                self._feed(member.VectorCame(generation))

    def state_came(self, generation: int, retained: Merged | None) -> None:
        """Become a member in full."""
        with self._changed:
            if member.counts(self._state, generation):
                self._retained = retained
                self._feed(member.StateCame(generation, retained is not None))

    def state_served(self, generation: int) -> None:
        """Go on: the joiners have the state."""
        with self._changed:
            self._feed(member.StateServed(generation))

    def exchanged(self, generation: int, pool: BufferPool) -> None:
        """Drop the retained vector: every member has committed its round (R6)."""
        with self._changed:
            if member.counts(self._state, generation):
                retained, self._retained = self._retained, None
                self._feed(member.Exchanged(generation))
                if retained is not None:
                    pool.give(retained)

    def gathered(self, generation: int, result: MergeResult) -> None:
        """Commit a round."""
        with self._changed:
            if member.counts(self._state, generation):
                self._keep(result.merged, result.layout)
                self._keeping.gathered(result.snapshot, result.busy)
                self._feed(member.Gathered(generation, result.flag))

    def _keep(self, merged: Merged, layout: Layout) -> None:
        self._merged = self._retained = merged
        self._agreed[self._position.phase] = layout

    def group_broke(self, generation: int, reason: str) -> None:
        """Tell the supervisor, unless the generation is over anyway."""
        with self._changed:
            self._feed(member.OwnGroupFailed(generation, reason))

    def plane_failed(self, generation: int, error: Exception) -> None:
        """Fail the job: the merge found that the code breaks the contract, or Surefoot has a fault of its own."""
        self._lose_if_device(error)
        with self._changed:
            if member.counts(self._state, generation):
                self._mailbox.tell(self._raised(self._named(error)))

    def _named(self, error: Exception) -> Exception:
        """Name the inner loop that the others are not in; tell a drift by the name that users know."""
        if isinstance(error, DriftError):
            return DriftError(str(error)).with_traceback(error.__traceback__)
        if not isinstance(error, ExchangeError):
            return error
        where = f"here it is the inner loop at {self._line}, in step {self._position.step}"
        return ContractError(f"{error}; {where}").with_traceback(error.__traceback__)

    # ---- the training thread

    def _train(self) -> None:
        try:
            faults.point("start", -1)
            streams = Streams(self._spec.seed, self._device)
            run_training(train_function.load(self._spec.entrypoint, streams), self._options(), self)
        except TrainerExit:
            pass
        except BaseException as error:  # noqa: BLE001  the thread's edge: user code may raise anything, even SystemExit
            self._lose_if_device(error)
            if not self._state.stopped:  # what it raises while it unwinds is nobody's concern
                self._mailbox.tell(self._raised(told_exit(error)))
        else:
            self._mailbox.tell(Returned(trainer=self._setup.trainer))
        with self._changed:
            self._returned = True
            if self._state.stopped:
                self._mailbox.tell(Ended(trainer=self._setup.trainer))

    def _options(self) -> RunOptions:
        return RunOptions(
            config=self._spec.config,
            seed=self._spec.seed,
            batch_size=self._spec.batch_size,
            sub_tasks=self._spec.sub_tasks,
            data_workers=self._spec.data_workers,
            device=self._device,
        )

    def _lose_if_device(self, error: BaseException) -> None:
        """A device that fails, or data workers that cannot be had, are this trainer's loss, not the user's mistake: end."""
        if isinstance(error, torch.AcceleratorError | DataWorkersLostError):
            traceback.print_exception(error)
            os._exit(1)

    def _raised(self, error: BaseException) -> Raised:
        return Raised(
            trainer=self._setup.trainer,
            kind=type(error).__name__,
            message=with_advice(error, self._spec.left_out),
            traceback=tracebacks.told(error),
            round=self._state.round,
            sub_task=self._computing,
            line=raised_line(error),
            alone=isinstance(error, EntrypointError),
            fatal=isinstance(error, ContractError | DriftError),
        )


def _device(gpus: float) -> torch.device:
    return torch.device("cuda", 0) if gpus and torch.cuda.is_available() else torch.device("cpu")
