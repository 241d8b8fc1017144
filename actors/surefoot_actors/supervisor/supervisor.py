"""The supervisor's shell: performs what the membership machine commands, and feeds it what happens.

One asyncio task performs events in order; each trainer has a link with a task that delivers and one that collects. Between
steps nothing here is asked by the training threads: what arrives grows with seconds and losses, not with steps.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import assert_never

from surefoot.errors import CheckpointError
from surefoot.events import EventKind
from surefoot.names import attempt_number, trainer_number
from surefoot.output import DEFAULT_MAX_OUTPUT_BYTES
from surefoot.spec import JobSpec, JobState
from surefoot_actors.checkpoint.store import is_at
from surefoot_actors.cluster.ports import Cluster, TrainerHandle, TrainerSetup
from surefoot_actors.journal.journal import Inherited, Journal
from surefoot_actors.liveness.server import LivenessServer
from surefoot_actors.protocol.membership import machine as membership
from surefoot_actors.protocol.membership.machine import (
    BeginFrom,
    CancelStart,
    CancelTimer,
    CheckpointsFound,
    Emit,
    Event,
    Finish,
    Kill,
    Lost,
    MembershipState,
    MessageReceived,
    Phase,
    Record,
    Reserve,
    Reserved,
    RestoreSourceMissing,
    RowRecorded,
    SaveState,
    Send,
    SetTimer,
    StartTrainer,
    Survivors,
    Suspected,
    Timer,
    TimerFired,
)
from surefoot_actors.protocol.messages import (
    Done,
    End,
    NoticeGiven,
    NoticeTaken,
    NotRestored,
    OnceAsked,
    OnceDone,
    Raised,
    Saved,
    Warned,
)
from surefoot_actors.protocol.once import Gone
from surefoot_actors.story import Story
from surefoot_actors.supervisor.checkpoints import CheckpointCoordinator
from surefoot_actors.supervisor.clocks import Clocks
from surefoot_actors.supervisor.commands import Commands
from surefoot_actors.supervisor.deaths import Deaths
from surefoot_actors.supervisor.fault_injection import Injector
from surefoot_actors.supervisor.ledger_intake import LedgerIntake
from surefoot_actors.supervisor.once import OnceKeeper
from surefoot_actors.supervisor.secrets import SecretKeeper
from surefoot_actors.supervisor.stall_teller import StallTeller
from surefoot_actors.supervisor.status import Status
from surefoot_actors.supervisor.system_metrics import SystemMetrics
from surefoot_actors.supervisor.trainer_link import Handled
from surefoot_actors.supervisor.trainers import Trainers
from surefoot_actors.tasks import Tasks
from surefoot_actors.uplink.ports import Uplink

__all__ = ["Outcome", "Supervisor"]

# How long the last rows and events may take to be acknowledged at the end.
FLUSH_S = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How an attempt ended."""

    state: JobState
    reason: str


def _first_state(spec: JobSpec, *, saves: bool) -> MembershipState:
    """`saves`: whether the job has a place for checkpoints."""
    return MembershipState(
        num_sub_tasks=spec.sub_tasks,
        target=spec.trainers,
        min_trainers=min(spec.min_trainers, spec.trainers),
        spares=spec.spares,
        max_failures=spec.max_failures,
        saves=saves and spec.checkpoint.final,
        from_checkpoint=spec.restore is not None,
        searching=saves or spec.restore is not None,
    )


class Supervisor:
    """Owns one attempt's membership, from the first trainer's start until all are gone."""

    def __init__(
        self,
        spec: JobSpec,
        attempt: str,
        cluster: Cluster,
        uplink: Uplink,
        journal: Journal,
        liveness: LivenessServer,
        faults: tuple[str, ...] = (),
        *,
        checkpoints: str = "",
        max_output_bytes: int = DEFAULT_MAX_OUTPUT_BYTES,
        die: Callable[[], None] | None = None,
        logs: bool = False,
    ) -> None:
        """`checkpoints`: where the job's lie; empty: nowhere. `die` ends this process, for chaos. `logs`: what is printed is shipped."""
        self._logs, self._max_output_bytes = logs, max_output_bytes
        self._spec, self._attempt, self._cluster = spec, attempt, cluster
        self._uplink, self._journal, self._liveness, self._faults = uplink, journal, liveness, faults
        self._place, self._run_id = checkpoints, ""
        self._state = _first_state(spec, saves=bool(checkpoints))
        self._events: asyncio.Queue[Event | Handled | Gone] = asyncio.Queue()
        # events that commands gave rise to, handled before anything else
        self._due: list[Event] = []
        self._outcome: Outcome | None = None
        # what the machine was told last
        self._story = Story()
        happen, tell = self._events.put_nowait, uplink.event
        self._tasks, self._clocks = Tasks("supervisor"), Clocks(happen)
        self._rows = LedgerIntake(uplink)
        self._status = Status(tell, self._rows)
        self._secrets = SecretKeeper(spec, uplink, tell)
        self._trainers = Trainers(cluster, self._rows, self._events, tell, self._secrets)
        self._injector = Injector(uplink, self._trainers.links, die)
        self._deaths = Deaths(liveness, happen, self._tasks, self._injector.hit)
        self._once = OnceKeeper(journal, self._trainers.send)
        self._checkpoints = CheckpointCoordinator(
            spec, checkpoints, tell, self._trainers.send, happen, self._may_commit, attempt=attempt_number(attempt)
        )
        self._commands = Commands(
            uplink, journal, self._checkpoints, self._injector, self._status, lambda: self._state, happen
        )
        self._stalls = StallTeller(
            lambda: self._state, self._trainers.links, self._rows, liveness, tell, self._trainers.news
        )

    async def run(self) -> Outcome:
        """Run the attempt to its end. Every trainer is gone when this returns or raises."""
        self._uplink.mask = self._secrets.mask
        self._liveness.on_change = self._deaths.liveness_changed
        self._liveness.on_system = SystemMetrics(self._uplink, self._trainers.links).take
        self._cluster.on_notice = self._noticed
        self._cluster.on_waiting = self._status.note_waiting
        self._trainers.open()
        watchers = [self._tasks.spawn(self._commands.end_if_disowned())]
        try:
            await self._begin()
            watchers.append(self._tasks.spawn(self._stalls.run()))
            # not before the members are known: a fault is to hit one of them
            watchers.append(self._tasks.spawn(self._commands.obey_all()))
            while self._outcome is None:
                await self._handle_or_tell(await self._events.get())
            return self._outcome
        finally:
            for watcher in watchers:
                watcher.cancel()
            self._clocks.close()
            await self._checkpoints.close()
            await self._trainers.end_all()
            self._tasks.cancel()
            await self._cluster.close()

    # ---- the beginning: of an attempt, or in the place of a supervisor that is gone

    async def _begin(self) -> None:
        inherited = await asyncio.to_thread(self._journal.take_over)
        self._state = replace(
            self._state, incarnation=inherited.incarnation, target=inherited.wanted or self._spec.trainers
        )
        self._run_id = inherited.run_id
        self._rows.expect(inherited.expected)
        if inherited.begun is not None:
            self._checkpoints.begin_from(inherited.begun[0])
            self._rows.begin(inherited.begun[1])
        handles = [] if inherited.nothing else await self._cluster.find_trainers()
        await self._once.begin(inherited.incarnation, [h.trainer for h in handles])
        if inherited.nothing:
            self._status.tell(JobState.STARTING, "waiting for the first trainers")
            await self._apply(membership.begin(self._state))
        else:
            await self._resume(handles, inherited)
        if self._state.searching and not self._state.ended:
            self._tasks.spawn(self._look_for_checkpoints())
        self._checkpoints.attend(self._state)
        self._checkpoints.start()

    async def _resume(self, handles: list[TrainerHandle], inherited: Inherited) -> None:
        for handle in handles:
            self._trainers.adopt(handle)
        there, finished = (
            tuple(h.trainer for h in handles),
            JobState(inherited.finished) if inherited.finished else None,
        )
        number, members = inherited.recorded or (0, ())
        found = Survivors(there, number, members, finished, inherited.num_started, inherited.waiting)
        outcome = membership.resume(self._state, found)
        self._story.note(found, outcome[1])
        await self._apply(outcome)
        if not inherited.finished and set(members).difference(found.trainers):
            self._status.note_certain_loss()  # of one that died while no supervisor lived, perhaps the last

    async def _look_for_checkpoints(self) -> None:
        """Nothing is founded before this has answered; members that train wait for nothing of it."""
        try:
            found = await self._checkpoints.find()
            others = frozenset(url for url in found if not is_at(url, self._place))
            self._events.put_nowait(CheckpointsFound(found, others))
        except CheckpointError as error:
            self._events.put_nowait(RestoreSourceMissing(str(error)))

    # ---- events in

    async def _handle_or_tell(self, event: Event | Handled | Gone) -> None:
        try:
            await self._handle(event)
        except CheckpointError:
            raise  # a place for checkpoints that cannot be opened is no fault of Surefoot's
        except Exception as error:
            raise self._story.broken("supervisor", error) from error

    async def _handle(self, event: Event | Handled | Gone) -> None:
        match event:
            case Handled():
                if not event.done.done():
                    event.done.set_result(None)
            case (Gone() as asked) | MessageReceived(message=(OnceAsked() | OnceDone()) as asked):
                await self._once.hear(asked)
            case MessageReceived(message=Saved() as saved):
                self._checkpoints.saved(saved)
            case MessageReceived(message=Warned(message=text)):
                self._uplink.event(EventKind.WARNING, message=text)
            case TimerFired() if not self._clocks.takes(event):
                pass
            case Lost() if self._deaths.put_off(event, self._state.members):
                pass
            case Lost():
                await self._feed(self._deaths.explained(event))
            case MessageReceived(message=NotRestored(cause="missing") as told) if await self._is_there(told):
                reason = f"it does not see a checkpoint that is there; is its storage mounted? {told.reason}"
                await self._feed(Lost(told.trainer, reason))
            case MessageReceived(message=Done() as done):
                await asyncio.to_thread(self._journal.expect, done.steps)
                self._rows.expect(done.steps)
                await self._feed(event)
            case _:
                await self._feed(event)

    async def _is_there(self, told: NotRestored) -> bool:
        state = self._state
        asked = state.phase is Phase.RESTORING and (told.trainer, told.url) == (state.restorer, state.restoring)
        return asked and await self._checkpoints.sees(told.url)

    async def _feed(self, event: Event) -> None:
        members = self._state.members
        if self._is_of_a_loss(event):
            since = self._deaths.unhealthy_since(event.trainer) if isinstance(event, Lost | Suspected) else None
            self._status.note_loss(self._state.phase, since)
            if self._rows.newest is not None:
                # losses with steps in between are not held together
                await self._step(RowRecorded(self._rows.newest))
        await self._step(event)
        match event:
            case MessageReceived(message=Raised(trainer=trainer)) if trainer in members and not self._state.ended:
                self._status.note_loss(self._state.phase)
            case Lost(trainer=trainer):
                self._trainers.dismiss(trainer)  # dead for certain or not: nothing of it stays
        self._checkpoints.attend(self._state)

    def _is_of_a_loss(self, event: Event) -> bool:
        """Whether a member is lost by this, or may be."""
        if isinstance(event, Lost | Suspected):
            return event.trainer in self._state.members
        return event == TimerFired(Timer.PATIENCE)

    def _noticed(self, trainer: str, reason: str) -> None:
        self._trainers.send(trainer, NoticeTaken())
        self._events.put_nowait(MessageReceived(NoticeGiven(trainer=trainer, reason=reason)))

    # ---- commands out

    async def _step(self, event: Event) -> None:
        """Tell the machine what has happened, and perform what it commands."""
        outcome: membership.Outcome = self._state, ()
        try:
            outcome = membership.apply(self._state, event)
        finally:
            self._story.note(event, outcome[1])
        await self._apply(outcome)

    async def _apply(self, outcome: membership.Outcome) -> None:
        self._state, commands = outcome
        for command in commands:
            await self._perform(command)
        while self._due:
            await self._step(self._due.pop(0))

    async def _perform(self, command: membership.Command) -> None:
        match command:
            case StartTrainer(trainer=trainer):
                waiting = (*self._state.starting, *self._state.ready)
                await asyncio.to_thread(self._journal.start, trainer_number(trainer) + 1, waiting)
                self._trainers.start(command, self._setup(command))
            case SaveState():
                self._checkpoints.save(command, self._state)
            case CancelStart(trainer=trainer) | Kill(trainer=trainer):
                self._trainers.dismiss(trainer)
            case Send(trainer=trainer, message=message):
                self._trainers.send(trainer, message)
            case Reserve():
                self._due.append(Reserved(await asyncio.to_thread(self._journal.reserve), self._nonce()))
            case Record(generation=generation):
                members = tuple(m.trainer for m in generation.members)
                await asyncio.to_thread(self._journal.record, generation.number, members)
            case BeginFrom(url=url, step=step):
                await self._begin_from(url, step)
            case Emit(kind=kind, data=data):
                self._status.emit(kind, data)
            case SetTimer(timer=timer, after_s=after_s):
                self._clocks.set(timer, after_s)
            case CancelTimer(timer=timer):
                self._clocks.cancel(timer)
            case Finish(outcome=outcome, reason=reason):
                await self._finish(outcome, reason)
            case _:
                assert_never(command)

    def _setup(self, command: StartTrainer) -> TrainerSetup:
        return TrainerSetup(
            attempt=self._attempt,
            trainer=command.trainer,
            spec=self._spec,
            liveness=self._liveness.address,
            liveness_secret=self._liveness.sealed,
            checkpoints=self._place,
            max_output_bytes=self._max_output_bytes,
            run_id=self._run_id,
            logs=self._logs,
            apart_from=command.apart_from,
            faults=self._faults,
        )

    async def _begin_from(self, url: str, step: int) -> None:
        """The run begins from another job's checkpoint: from this one whatever comes, or a later beginning would be another run."""
        await asyncio.to_thread(self._journal.begin, url, step)
        self._checkpoints.begin_from(url)
        self._rows.begin(step)
        if self._place:
            self._checkpoints.want("begun from another job's")  # which may remove its own any time

    def _nonce(self) -> str:
        return f"{self._attempt}-{secrets.token_hex(16)}"

    def _may_commit(self) -> bool:
        """Whether no newer supervisor has taken over: the manifest has a single writer."""
        return self._journal.incarnation() == self._state.incarnation

    async def _finish(self, state: JobState, reason: str) -> None:
        """Record the outcome durably before anyone is told to end (R8), and let no row be lost."""
        await asyncio.to_thread(self._journal.finish, state)
        self._trainers.finishing.set_result(None)
        if state is JobState.PAUSED:
            self._rows.expect(self._checkpoints.newest_step)
        complete = state in (JobState.SUCCEEDED, JobState.PAUSED)
        if complete and not await self._rows.complete(FLUSH_S):
            self._uplink.event(
                EventKind.WARNING, message="the last ledger rows were lost with the trainers that held them"
            )
        end = End(incarnation=self._state.incarnation, reason=reason)
        for trainer in tuple(self._trainers.links):
            self._trainers.send(trainer, end)
        self._status.tell(state, reason)
        await self._uplink.flush(FLUSH_S)
        self._outcome = Outcome(state=state, reason=reason)
