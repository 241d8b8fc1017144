"""The supervisor's shell: performs what the membership machine commands, and feeds it what happens.

One asyncio task performs events in order; each trainer has an attendant with a task that delivers and one that collects. Between
steps nothing here is asked by the training threads: what arrives grows with seconds and losses, not with steps.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, replace
from typing import assert_never

from pydantic import JsonValue

from surefoot.errors import CheckpointError
from surefoot.events import Command, CommandKind, EventKind, LedgerRow
from surefoot.names import attempt_number, trainer_number
from surefoot.spec import JobSpec, JobState
from surefoot.words import UnknownWord
from surefoot_actors.checkpoint.store import is_at
from surefoot_actors.cluster.ports import Cluster, TrainerHandle, TrainerSetup
from surefoot_actors.journal.journal import Journal
from surefoot_actors.liveness.server import Condition, PulseServer
from surefoot_actors.protocol.death_cause import DeathCause
from surefoot_actors.protocol.membership import machine as membership
from surefoot_actors.protocol.membership.machine import (
    BeginFrom,
    Came,
    Cancelled,
    CancelTimer,
    Emit,
    Event,
    Finish,
    Found,
    Kill,
    Lost,
    MembershipState,
    PauseWanted,
    Phase,
    Record,
    Reserve,
    Reserved,
    Resized,
    RestoreSourceMissing,
    SaveState,
    Searched,
    Send,
    SetTimer,
    Started,
    StartTrainer,
    Stepped,
    Suspected,
    Timer,
    TimerFired,
    Trusted,
    Withdraw,
)
from surefoot_actors.protocol.messages import (
    Done,
    End,
    Leaving,
    NotRestored,
    OnceAsked,
    OnceDone,
    Raised,
    Saved,
    ToTrainer,
)
from surefoot_actors.protocol.once import Gone
from surefoot_actors.supervisor.checkpoints import CheckpointKeeper
from surefoot_actors.supervisor.clocks import Clocks
from surefoot_actors.supervisor.death_reasons import explained
from surefoot_actors.supervisor.fault_injection import Injector
from surefoot_actors.supervisor.ledger_intake import RowKeeper
from surefoot_actors.supervisor.once import OnceKeeper
from surefoot_actors.supervisor.stall_teller import StallTeller
from surefoot_actors.supervisor.trainer_link import Attendant, Handled
from surefoot_actors.uplink.ports import Uplink

__all__ = ["Outcome", "Supervisor"]

# How long a trainer that its helper has seen die may wait for the cluster's word, which says more of why; and the other way round, for
# the helper knows what it was computing. Both come within milliseconds.
WORD_S = 0.25
# How long a trainer that was told to end may take to unwind the user's code.
END_GRACE_S = 3.0
# How long the last rows and events may take to be acknowledged at the end.
FLUSH_S = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How an attempt ended."""

    state: JobState
    reason: str


class Supervisor:
    """Owns one attempt's membership, from the first trainer's start until all are gone."""

    def __init__(
        self,
        spec: JobSpec,
        attempt: str,
        cluster: Cluster,
        uplink: Uplink,
        journal: Journal,
        pulse: PulseServer,
        faults: tuple[str, ...] = (),
        *,
        checkpoints: str = "",
        die: Callable[[], None] | None = None,
    ) -> None:
        """`checkpoints`: where the job's lie; empty: nowhere. `die` ends this process at once, for `surefoot chaos`."""
        self._spec, self._attempt, self._cluster = spec, attempt, cluster
        self._uplink, self._journal, self._pulse, self._faults = uplink, journal, pulse, faults
        self._events: asyncio.Queue[Event | Handled | Gone] = asyncio.Queue()
        self._clocks = Clocks(self._events.put_nowait)
        self._attendants: dict[str, Attendant] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._state = MembershipState(
            num_sub_tasks=spec.sub_tasks,
            target=spec.trainers,
            min_trainers=min(spec.min_trainers, spec.trainers),
            spares=spec.spares,
            max_failures=spec.max_failures,
            saves=bool(checkpoints) and spec.checkpoint.final,
            from_checkpoint=spec.restore is not None,
            searching=bool(checkpoints) or spec.restore is not None,
        )
        self._checkpoints = checkpoints
        self._keeper = CheckpointKeeper(
            spec,
            checkpoints,
            uplink.event,
            self._send,
            self._events.put_nowait,
            self._may_commit,
            attempt=attempt_number(attempt),
        )
        self._once, self._run_id = OnceKeeper(journal, self._send), ""
        self._injector = Injector(uplink, self._attendants, die)
        self._rows = RowKeeper(uplink)
        self._stalls = StallTeller(lambda: self._state, self._attendants, self._rows, pulse, uplink.event)
        # events that commands gave rise to, handled before anything else
        self._due: list[Event] = []
        self._lost_at: float | None = None
        self._again = 0
        # unix time since which a trainer has not been seen running
        self._ill_since: dict[str, float] = {}
        # those whose helper has seen them die
        self._died: set[str] = set()
        # those whose helper was given the time to say so
        self._heard_out: set[str] = set()
        self._outcome: Outcome | None = None
        # done once the outcome is recorded: from then on no message needs to have an effect
        self._finishing: asyncio.Future[None]

    async def run(self) -> Outcome:
        """Run the attempt to its end. Every trainer is gone when this returns or raises."""
        self._pulse.on_change = self._pulse_changed
        self._cluster.on_notice = self._noticed
        self._finishing = asyncio.get_running_loop().create_future()
        watchers = [self._spawn(self._end_if_disowned())]
        try:
            await self._begin()
            watchers.append(self._spawn(self._stalls.run()))
            # not before the members are known: a fault is to hit one of them
            watchers.append(self._spawn(self._obey_commands()))
            while self._outcome is None:
                await self._handle(await self._events.get())
            return self._outcome
        finally:
            for watcher in watchers:
                watcher.cancel()
            self._clocks.close()
            await self._keeper.close()
            await self._end_all()

    # ---- events in, commands out

    async def _begin(self) -> None:
        journal = self._journal
        incarnation = await asyncio.to_thread(journal.next_incarnation)
        wanted = await asyncio.to_thread(journal.wanted)
        self._state = replace(self._state, incarnation=incarnation, target=wanted or self._spec.trainers)
        finished, recorded = await asyncio.to_thread(lambda: (journal.finished(), journal.recorded()))
        self._run_id = await asyncio.to_thread(journal.run_id)
        self._rows.expect(await asyncio.to_thread(journal.expected))
        if (begun := await asyncio.to_thread(journal.begun)) is not None:
            self._keeper.begin_from(begun[0])
            self._rows.begin(begun[1])
        handles = [] if incarnation == 1 and recorded is None else await self._cluster.find_trainers()
        await self._once.begin(incarnation, [h.trainer for h in handles])
        if incarnation == 1 and recorded is None:
            self._tell_state(JobState.STARTING, "waiting for the first trainers")
            await self._apply(membership.begin(self._state))
        else:
            await self._resume(handles, finished, *(recorded or (0, ())))
        if self._state.searching and not self._state.ended:
            self._spawn(self._look_for_checkpoints())
        self._keeper.attend(self._state)
        self._keeper.start()

    async def _look_for_checkpoints(self) -> None:
        """Nothing is founded before this has answered; members that train wait for nothing of it."""
        try:
            found = await self._keeper.find()
            others = frozenset(url for url in found if not is_at(url, self._checkpoints))
            self._events.put_nowait(Searched(found, others))
        except CheckpointError as error:
            self._events.put_nowait(RestoreSourceMissing(str(error)))

    async def _resume(
        self, handles: list[TrainerHandle], finished: str | None, number: int, members: tuple[str, ...]
    ) -> None:
        for handle in handles:
            self._attend(handle.trainer, self._adopted(handle))
        found = Found(
            tuple(h.trainer for h in handles),
            number,
            members,
            JobState(finished) if finished else None,
            num_started=await asyncio.to_thread(self._journal.num_started),
        )
        await self._apply(membership.resume(self._state, found))
        if not finished and set(members).difference(found.trainers):
            self._note_loss(certain=True)  # of one that died while no supervisor lived, perhaps the last

    async def _handle(self, event: Event | Handled | Gone) -> None:
        match event:
            case Handled():
                if not event.done.done():
                    event.done.set_result(None)
                return
            case Gone():
                await self._once.hear(event)
                return
            case Came(message=(OnceAsked() | OnceDone()) as asked):
                await self._once.hear(asked)
                return
            case Came(message=Saved() as saved):
                self._keeper.saved(saved)
                return
            case Came(message=NotRestored(why="missing") as told) if self._is_restoring(
                told.trainer, told.url
            ) and await self._keeper.sees(told.url):
                event = Lost(
                    told.trainer, f"it does not see a checkpoint that is there; is its storage mounted? {told.reason}"
                )
            case Came(message=Done() as done):
                await asyncio.to_thread(self._journal.expect, done.steps)
                self._rows.expect(done.steps)
            case TimerFired() if not self._clocks.takes(event):
                return
            case Lost() if self._waits_for_its_helper(event):
                self._spawn(self._after_its_helper(event))
                return
            case Lost():
                reason = explained(event.reason, self._pulse.killed_by(event.trainer))
                event = replace(event, reason=reason, computing=self._computing(event), cause=self._cause(event))
        if self._is_of_a_loss(event):
            self._note_loss(self._ill_since.pop(event.trainer, None) if isinstance(event, Lost | Suspected) else None)
            if self._rows.newest is not None:
                # losses with steps in between are not held together
                await self._apply(membership.step(self._state, Stepped(self._rows.newest)))
        members = self._state.members
        await self._apply(membership.step(self._state, event))
        match event:
            case Came(message=Raised(trainer=trainer)) if trainer in members and not self._state.ended:
                self._note_loss()
        if isinstance(event, Lost):
            self._dismiss(event.trainer)  # dead for certain or not: nothing of it stays
        self._keeper.attend(self._state)

    def _is_of_a_loss(self, event: Event) -> bool:
        """Whether a member is lost by this, or may be."""
        if isinstance(event, Lost | Suspected):
            return event.trainer in self._state.members
        return event == TimerFired(Timer.PATIENCE)

    def _is_restoring(self, trainer: str, url: str) -> bool:
        return self._state.phase is Phase.RESTORING and (trainer, url) == (self._state.restorer, self._state.restoring)

    def _waits_for_its_helper(self, lost: Lost) -> bool:
        """Whether a helper lives that is about to say what a lost member was computing: the cluster's word may come before its."""
        trainer = lost.trainer
        if trainer not in self._state.members or trainer in self._died or trainer in self._heard_out:
            return False
        return self._pulse.is_linked(trainer) and lost.cause is not DeathCause.NODE

    async def _after_its_helper(self, lost: Lost) -> None:
        await self._pulse.hear_gone(lost.trainer, WORD_S)
        self._heard_out.add(lost.trainer)
        self._events.put_nowait(lost)

    def _computing(self, lost: Lost) -> tuple[int, int] | None:
        """What a trainer was computing that died, as far as its helper has said."""
        last = self._pulse.last(lost.trainer)
        if last is None or last.sub_task < 0 or lost.trainer not in self._died:
            return None
        return last.round, last.sub_task

    def _cause(self, lost: Lost) -> DeathCause:
        return DeathCause.INJECTED if lost.trainer in self._injector.hit else lost.cause

    async def _apply(self, outcome: membership.Outcome) -> None:
        self._state, commands = outcome
        for command in commands:
            await self._perform(command)
        while self._due:
            await self._apply(membership.step(self._state, self._due.pop(0)))

    async def _perform(self, command: membership.Command) -> None:
        match command:
            case StartTrainer(trainer=trainer):
                await asyncio.to_thread(self._journal.start, trainer_number(trainer) + 1)
                self._attend(trainer, self._started(command))
            case SaveState():
                self._keeper.save(command, self._state)
            case Withdraw(trainer=trainer):
                self._dismiss(trainer)
            case Kill(trainer=trainer):
                self._dismiss(trainer)
            case Send(trainer=trainer, message=message):
                self._send(trainer, message)
            case Reserve():
                self._due.append(Reserved(await asyncio.to_thread(self._journal.reserve), self._nonce()))
            case Record(generation=generation):
                members = tuple(m.trainer for m in generation.members)
                await asyncio.to_thread(self._journal.record, generation.number, members)
            case BeginFrom(url=url, step=step):
                await self._begin_from(url, step)
            case Emit(kind=kind, data=data):
                self._emit(kind, dict(data))
            case SetTimer(timer=timer, after_s=after_s):
                self._clocks.set(timer, after_s)
            case CancelTimer(timer=timer):
                self._clocks.cancel(timer)
            case Finish(outcome=outcome, reason=reason):
                await self._finish(outcome, reason)

    async def _begin_from(self, url: str, step: int) -> None:
        """The run begins from another job's checkpoint: from this one whatever comes, or a later beginning would be another run."""
        await asyncio.to_thread(self._journal.begin, url, step)
        self._keeper.begin_from(url)
        self._rows.begin(step)
        if self._checkpoints:
            self._keeper.want("begun from another job's")  # which may remove its own any time

    def _nonce(self) -> str:
        return f"{self._attempt}-{secrets.token_hex(16)}"

    async def _later(self, delay_s: float, event: Event) -> None:
        await asyncio.sleep(delay_s)
        self._events.put_nowait(event)

    # ---- trainers

    def _attend(self, trainer: str, start: Awaitable[TrainerHandle]) -> None:
        attendant = Attendant(trainer, start, self._events, self._rows, self._finishing)
        self._attendants[trainer] = attendant
        attendant.begin()

    async def _started(self, command: StartTrainer) -> TrainerHandle:
        await asyncio.sleep(command.after_s)
        if self._spec.pip and self._cluster.installs:
            self._uplink.event(EventKind.INSTALLING, trainer=command.trainer, requirements=list(self._spec.pip))
        handle = await self._cluster.start_trainer(
            TrainerSetup(
                attempt=self._attempt,
                trainer=command.trainer,
                spec=self._spec,
                pulse=self._pulse.address,
                pulse_secret=self._pulse.sealed,
                checkpoints=self._checkpoints,
                run_id=self._run_id,
                apart_from=command.apart_from,
                faults=self._faults,
            )
        )
        self._events.put_nowait(Started(command.trainer))
        return handle

    async def _adopted(self, handle: TrainerHandle) -> TrainerHandle:
        return handle

    def _send(self, trainer: str, message: ToTrainer) -> None:
        attendant = self._attendants.get(trainer)
        if attendant is None:
            return
        attendant.send(message)
        if isinstance(message, End):
            del self._attendants[trainer]
            self._spawn(self._end(attendant, trainer, END_GRACE_S), name=f"end-{trainer}")

    def _dismiss(self, trainer: str) -> None:
        """Fence: end the process whatever it does, without waiting for it here."""
        attendant = self._attendants.pop(trainer, None)
        if attendant is not None:
            self._spawn(self._end(attendant, trainer, 0.0), name=f"kill-{trainer}")

    async def _end(self, attendant: Attendant, trainer: str, grace_s: float) -> None:
        await attendant.end(grace_s)
        self._events.put_nowait(Gone(trainer))

    def _pulse_changed(self, trainer: str, condition: Condition, detail: str) -> None:
        if condition is Condition.RUNNING:
            self._events.put_nowait(Trusted(trainer))
        elif condition in (Condition.STOPPED, Condition.SILENT):
            self._ill_since[trainer] = time.time() - self._pulse.ill_s(trainer)
            self._events.put_nowait(Suspected(trainer, f"{condition}: {detail}"))
        elif condition is Condition.GONE:
            self._died.add(trainer)
            lost = Lost(trainer, detail, cause=self._pulse.cause_of_death(trainer))
            self._spawn(self._later(WORD_S, lost))

    def _noticed(self, trainer: str, reason: str) -> None:
        self._events.put_nowait(Came(Leaving(trainer=trainer, reason=reason)))

    async def _end_all(self) -> None:
        ends = [a.end(0.0) for a in self._attendants.values()]
        self._attendants.clear()
        # one that could not be ended here is ended, or told, by the cluster's close
        await asyncio.gather(*ends, return_exceptions=True)
        ending = [t for t in self._tasks if t.get_name().startswith(("end-", "kill-"))]
        await asyncio.gather(*ending, return_exceptions=True)
        for task in self._tasks:
            task.cancel()
        await self._cluster.close()

    # ---- the control plane

    async def _obey_commands(self) -> None:
        async for command in self._uplink.commands():
            try:
                await self._obey(command)
            except Exception as error:  # noqa: BLE001  one command's edge: the next must be obeyed all the same
                self._uplink.event(EventKind.WARNING, message=f"{command.kind} could not be done: {error!r}")

    async def _obey(self, command: Command) -> None:
        match command.kind:
            case CommandKind.CANCEL:
                self._events.put_nowait(Cancelled("cancelled by request"))
            case CommandKind.RESIZE:
                if command.trainers is not None:
                    await asyncio.to_thread(self._journal.want, command.trainers)
                    self._events.put_nowait(Resized(command.trainers))
            case CommandKind.CHECKPOINT:
                self._keeper.want("asked for")
            case CommandKind.PAUSE:
                self._tell_state(JobState.PAUSING, "to stop at the next step boundary")
                self._events.put_nowait(PauseWanted())
            case CommandKind.FAULT:
                if command.fault is not None:
                    await self._injector.inject(command.fault, self._state.members)
            case UnknownWord():
                self._uplink.event(
                    EventKind.WARNING,
                    message=f"the control plane asks for {command.kind!r}, which this version cannot do",
                )
            case _:
                assert_never(command.kind)

    def _may_commit(self) -> bool:
        """Whether no newer supervisor has taken over: the manifest has a single writer."""
        return self._journal.incarnation() == self._state.incarnation

    async def _end_if_disowned(self) -> None:
        await self._uplink.gone.wait()
        self._events.put_nowait(Cancelled("the control plane no longer knows this attempt"))

    def _emit(self, kind: EventKind, data: dict[str, JsonValue]) -> None:
        self._uplink.event(kind, **data)
        if kind is EventKind.GENERATION:
            self._note_generation(data)

    def _tell_state(self, state: JobState, reason: str) -> None:
        self._uplink.event(EventKind.STATE, state=state, reason=reason)

    def _note_loss(self, since: float | None = None, *, certain: bool = False) -> None:
        """Take note that a member is lost, as it was at this unix time; None: at this moment. `certain`: whatever the phase."""
        holds_up = self._state.phase in (Phase.RUNNING, Phase.RESERVING, Phase.COLLECTING)
        if self._lost_at is None and (certain or holds_up):
            self._lost_at = since or time.time()
            self._tell_state(JobState.RECOVERING, "a trainer was lost")

    def _note_generation(self, data: dict[str, JsonValue]) -> None:
        number, again = data["generation"], data["sub_tasks_again"]
        assert isinstance(number, int)
        assert isinstance(again, int)
        self._again += again
        if self._lost_at is None:
            self._tell_state(JobState.RUNNING, str(data["reason"]))
        else:
            self._rows.when_generation(number, self._recovered)

    def _recovered(self, row: LedgerRow) -> None:
        """The first step that a generation after a loss has committed."""
        if self._lost_at is None:
            return
        seconds = max(0.0, row.circumstances.at - self._lost_at)
        self._uplink.event(
            EventKind.RECOVERED,
            generation=row.circumstances.generation,
            step=row.result.step,
            seconds=round(seconds, 4),
            at=row.circumstances.at,
            sub_tasks_again=self._again,
        )
        self._lost_at, self._again = None, 0
        self._tell_state(JobState.RUNNING, "recovered")

    async def _finish(self, state: JobState, reason: str) -> None:
        """Record the outcome durably before anyone is told to end (R8), and let no row be lost."""
        await asyncio.to_thread(self._journal.finish, state)
        self._finishing.set_result(None)
        if state is JobState.PAUSED:
            self._rows.expect(self._keeper.newest_step)
        complete = state in (JobState.SUCCEEDED, JobState.PAUSED)
        if complete and not await self._rows.complete(FLUSH_S):
            self._uplink.event(
                EventKind.WARNING, message="the last ledger rows were lost with the trainers that held them"
            )
        end = End(incarnation=self._state.incarnation, reason=reason)
        for trainer in tuple(self._attendants):
            self._send(trainer, end)
        self._tell_state(state, reason)
        await self._uplink.flush(FLUSH_S)
        self._outcome = Outcome(state=state, reason=reason)

    # ---- tasks: each has an owner, here

    def _spawn(self, work: Coroutine[None, None, None], name: str = "supervisor") -> asyncio.Task[None]:
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task
