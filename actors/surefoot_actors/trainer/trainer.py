"""The trainer's process: performs what the member machine commands, and feeds it what the supervisor says.

The other two who feed it are the training thread (`training_side.py`) and the data plane of the present generation
(`generation_side.py`). All of them meet in `member.py`, under the commit lock (R1).
"""

from __future__ import annotations

import os
import sys
import threading
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from surefoot.target import parse_target
from surefoot_actors import disclosed
from surefoot_actors.cluster.ports import Inbox, TrainerSetup, Where
from surefoot_actors.determinism.fingerprint import make_deterministic
from surefoot_actors.determinism.rng import Streams
from surefoot_actors.engine.contract.run import RunOptions, run_training
from surefoot_actors.engine.exchange.contribution import Contribution
from surefoot_actors.engine.exchange.signals import Signals
from surefoot_actors.engine.group.group import RendezvousHost
from surefoot_actors.engine.ports import TrainerExit
from surefoot_actors.faults import points as faults
from surefoot_actors.logs import capture
from surefoot_actors.process_log import say
from surefoot_actors.protocol.member.machine import At, Close, Command, Form, Merge, Resume, Stop, Tell
from surefoot_actors.protocol.messages import (
    Done,
    Ended,
    EndGeneration,
    EnterGeneration,
    GiveSecrets,
    NoticeGiven,
    NoticeTaken,
    OnceTold,
    Report,
    Restore,
    Returned,
    Save,
    Snapshot,
    ToTrainer,
)
from surefoot_actors.protocol.spans import covers
from surefoot_actors.trainer.checkpoints.schedule import CheckpointSchedule
from surefoot_actors.trainer.data_plane import DataPlane
from surefoot_actors.trainer.generation_side import GenerationSide
from surefoot_actors.trainer.member import Member
from surefoot_actors.trainer.once import OnceRequests
from surefoot_actors.trainer.output import output_of
from surefoot_actors.trainer.raised import lose_if_device, raised
from surefoot_actors.trainer.training_side import FILES_S, TrainingSide
from surefoot_actors.user_code import train_function
from surefoot_actors.user_code.advice import told_exit
from surefoot_actors.user_code.left_files import WorkingFolder, advice
from surefoot_actors.user_code.lines import own_line

__all__ = ["TrainerProcess"]

# How long a trainer whose train function was left otherwise than by its return waits for its files to be kept.
_LAST_FILES_S = 5.0


class TrainerProcess:
    """One trainer. Implements `cluster.ports.TrainerService`: called by the supervisor, on control threads."""

    def __init__(self, setup: TrainerSetup) -> None:
        self._setup, self._spec = setup, setup.spec
        faults.arm(setup.faults, setup.trainer, os.environ.get("SUREFOOT_FAULTS_FIRED", ""))
        make_deterministic(setup.spec.threads)
        device = _device(setup.spec.resources.gpus)
        self._address = os.environ.get("SUREFOOT_HOST", "127.0.0.1")
        self._rendezvous = RendezvousHost(self._address)
        self._member = member = Member(setup, device, self._rendezvous.address, self._perform)
        self._mailbox = member.mailbox
        self._schedule = CheckpointSchedule(setup, device, member.mailbox, member.fingerprint, member)
        self._onces = OnceRequests(setup.trainer, setup.run_id, member.commit_lock, member.mailbox.tell)
        self._output = output_of(setup, member)
        self._schedule.keep_files = lambda step: self._output.sync(step, FILES_S)
        self._coordinator = self._training_side()
        self._host = GenerationSide(member, self._schedule)
        self._plane: DataPlane | None = None
        self._thread: threading.Thread | None = None
        self._returned = False
        self.start()

    def _training_side(self) -> TrainingSide:
        return TrainingSide(self._member, self._schedule, self._onces, self._output)

    def start(self) -> None:
        """Start the training thread. Doubled calls do nothing."""
        with self._member.commit_lock:
            if self._thread is not None:
                return
            self._thread = threading.Thread(target=self._train, name="training", daemon=True)
        self._thread.start()

    def deliver(self, message: ToTrainer) -> None:
        """Take a message; never blocks for long."""
        member = self._member
        if isinstance(message, EndGeneration | EnterGeneration):
            faults.point("report" if isinstance(message, EndGeneration) else "enter", member.position.step)
        with member.commit_lock:
            if isinstance(message, GiveSecrets):
                disclosed.disclose(message.values, masked=capture.hide(message.values.values()))
                member.commit_lock.notify_all()
                return
            if isinstance(message, OnceTold):
                self._onces.told(message)
                return
            if isinstance(message, NoticeTaken):
                self._output.leaving = True
                return
            if isinstance(message, Restore | Snapshot | Save):
                if message.incarnation >= member.state.incarnation:
                    self._schedule.obey(message)
                return
            member.feed(message)

    def collect(self, after: int, rows_below: int, wait_s: float) -> Inbox:
        """Return what this trainer has to say: see `cluster.TrainerService.collect`."""
        return self._mailbox.collect(after, rows_below, wait_s, self._tells_rows())

    def notice(self, reason: str) -> None:
        """Ask to leave: this process, or its node, is about to go."""
        self._output.leaving = True
        self._mailbox.tell(NoticeGiven(trainer=self._setup.trainer, reason=reason))

    def where(self) -> Where:
        """Say where the training thread is, and at which line of the user's. Takes no lock: whoever holds one may be what hangs."""
        ident = self._thread.ident if self._thread is not None else None
        frame = sys._current_frames().get(ident) if ident is not None else None
        member = self._member
        return Where(
            step=member.position.step if member.state.round >= 0 else -1,
            sub_task=member.computing,
            line=own_line(frame),
            waits_for=member.awaits if member.computing < 0 or member.state.at is not At.ROUND else "",
        )

    def _tells_rows(self) -> bool:
        state = self._member.state
        over = state.at in (At.END, At.CONCLUDED)
        return over or (state.generation is not None and state.round >= 0 and state.rank == 0)

    # ---- what the machine commands: with the commit lock held, which it was fed under

    def _perform(self, command: Command) -> None:
        match command:
            case Tell(message=message):
                self._mailbox.tell(self._completed(message) if isinstance(message, Report) else message)
                if isinstance(message, Done) and self._plane is not None:
                    self._plane.say_done()
            case Form():
                self._form(command)
            case Merge(flag=flag):
                if not self._member.hold(command):
                    self._start_merge(flag)
            case Close():
                self._member.waiting_merge = None
                if self._plane is not None:
                    self._plane.close()
                    self._plane = None
            case Resume():
                self._member.commit_lock.notify_all()
            case Stop():
                self._schedule.stop()
                self._onces.stop()
                self._member.commit_lock.notify_all()
                if self._returned:
                    self._mailbox.tell(Ended(trainer=self._setup.trainer))

    def _form(self, form: Form) -> None:
        member = self._member
        self._check_place(form)
        member.cross_checks.enter(form.generation, member.state.rank)
        self._plane = DataPlane(self._host, form, member.state.rank, device=member.device, address=self._address)

    def _check_place(self, form: Form) -> None:
        """End this process, to be replaced, if it is to be at a place where its state is not: it restored what nobody goes on from."""
        start, here = form.generation.start, self._member.position.round
        if form.role == "settled" and here != start:
            say(f"this trainer's state is of round {here}, its generation starts with {start}")
            os._exit(1)

    def _completed(self, report: Report) -> Report:
        member = self._member
        return replace(
            report,
            sub_task_s=member.sub_task_s,
            store=member.store,
            step=member.position.step,
            num_steps=member.num_steps,
            fingerprint=member.fingerprint(),
            checked=member.cross_checks.checked,
        )

    def _start_merge(self, flag: bool) -> None:
        assert self._plane is not None
        member, generation = self._member, self._member.state.generation
        assert generation is not None
        round_, step, phase = member.position
        checks, shown = member.cross_checks.shown(round_)
        self._plane.merge(
            Contribution(
                round=round_,
                step=step,
                num_sub_tasks=self._spec.sub_tasks,
                covers=covers(generation, round_, self._spec.sub_tasks),
                nodes=dict(member.leaves.nodes()),
                signals=Signals(flag, self._schedule.wanted, self._schedule.busy),
                drift=member.drift,
                cross_checks=checks,
                shown=shown,
                look=partial(member.owner.table, step),
                agreed=member.agreed.get(phase),
            )
        )

    # ---- the training thread

    def _train(self) -> None:
        try:
            faults.point("start", -1)
            self._wait_for_secrets()
            streams = Streams(self._spec.seed, self._member.device)
            train = train_function.load(self._spec.entrypoint, streams)
            folder = WorkingFolder(Path.cwd())
            run = run_training(train, self._options(), self._coordinator)
            left = folder.left()
            self._output.sync(self._member.position.step, FILES_S, ended=True)
        except TrainerExit:
            self._output.sync(self._member.position.step, _LAST_FILES_S, in_step=True)
        except BaseException as error:  # noqa: BLE001  the thread's edge: user code may raise anything, even SystemExit
            lose_if_device(error)
            self._output.sync(self._member.position.step, _LAST_FILES_S, in_step=True)
            if not self._member.state.stopped:  # what it raises while it unwinds is nobody's concern
                self._mailbox.tell(raised(told_exit(error), self._member))
        else:
            warning = advice(left) if left else ""
            self._mailbox.tell(Returned(trainer=self._setup.trainer, warning=warning, ended_early=run.ended_early))
        self._output.close()
        with self._member.commit_lock:
            self._returned = True
            if self._member.state.stopped:
                self._mailbox.tell(Ended(trainer=self._setup.trainer))

    def _wait_for_secrets(self) -> None:
        """Wait for what the user's code is to find in its environment, from its first line on."""
        if self._spec.secrets:
            with self._member.waiting_until(disclosed.is_disclosed, "its secrets"):
                pass

    def _options(self) -> RunOptions:
        return RunOptions(
            config=self._spec.config,
            seed=self._spec.seed,
            batch_size=self._spec.batch_size,
            sub_tasks=self._spec.sub_tasks,
            data_workers=self._spec.data_workers,
            device=self._member.device,
            data=self._member.data.open(),
            cache_dir=self._member.data.cache_dir,
            target=parse_target(self._spec.target) if self._spec.target else None,
        )


def _device(gpus: float) -> torch.device:
    return torch.device("cuda", 0) if gpus and torch.cuda.is_available() else torch.device("cpu")
