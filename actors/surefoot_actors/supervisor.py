"""The supervisor's shell: performs what the membership machine commands, and feeds it what happens.

One asyncio task performs events in order; each trainer has an attendant with a task that delivers and one that collects. Between
steps nothing here is asked by the training threads: what arrives grows with seconds and losses, not with steps.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Awaitable, Coroutine
from dataclasses import dataclass, replace

from pydantic import JsonValue

from surefoot.events import CommandKind, EventKind, LedgerRow
from surefoot.spec import JobSpec, JobState
from surefoot_actors.attendant import Attendant, Handled
from surefoot_actors.cluster import Cluster, TrainerHandle, TrainerSetup
from surefoot_actors.journal import Journal
from surefoot_actors.protocol import membership
from surefoot_actors.protocol.membership import (
    Came,
    Cancelled,
    Emit,
    Event,
    Finish,
    Found,
    GraceOver,
    Kill,
    Lost,
    MembershipState,
    Phase,
    Record,
    Reserve,
    Reserved,
    Resized,
    Send,
    Started,
    StartTrainer,
    Suspected,
    Trusted,
    Withdraw,
)
from surefoot_actors.protocol.messages import Done, End, ToTrainer
from surefoot_actors.pulse import Condition, PulseServer
from surefoot_actors.rows import RowKeeper
from surefoot_actors.uplink import Uplink

__all__ = ["Outcome", "Supervisor"]

# How long trainers that are enough to begin wait for the rest of those that are wanted.
START_GRACE_S = 10.0
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
    ) -> None:
        self._spec, self._attempt, self._cluster = spec, attempt, cluster
        self._uplink, self._journal, self._pulse, self._faults = uplink, journal, pulse, faults
        self._events: asyncio.Queue[Event | Handled] = asyncio.Queue()
        self._attendants: dict[str, Attendant] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._state = MembershipState(
            num_sub_tasks=spec.sub_tasks, target=spec.trainers, min_trainers=min(spec.min_trainers, spec.trainers)
        )
        self._rows = RowKeeper(uplink)
        # events that commands gave rise to, handled before anything else
        self._due: list[Event] = []
        self._grace: asyncio.Task[None] | None = None
        self._lost_at: float | None = None
        self._again = 0
        self._outcome: Outcome | None = None
        # done once the outcome is recorded: from then on no message needs to have an effect
        self._finishing: asyncio.Future[None]

    async def run(self) -> Outcome:
        """Run the attempt to its end. Every trainer is gone when this returns or raises."""
        self._pulse.on_change = self._pulse_changed
        self._finishing = asyncio.get_running_loop().create_future()
        watchers = [self._spawn(self._obey_commands()), self._spawn(self._end_if_disowned())]
        try:
            await self._begin()
            while self._outcome is None:
                await self._handle(await self._events.get())
            return self._outcome
        finally:
            for watcher in watchers:
                watcher.cancel()
            await self._end_all()

    # ---- events in, commands out

    async def _begin(self) -> None:
        incarnation = self._journal.next_incarnation()
        self._state = replace(self._state, incarnation=incarnation)
        finished, recorded = self._journal.finished(), self._journal.recorded()
        if incarnation == 1 and recorded is None:
            self._tell_state(JobState.STARTING, "waiting for the first trainers")
            await self._apply(membership.begin(self._state))
            return
        handles = await self._cluster.find_trainers()
        for handle in handles:
            self._attend(handle.trainer, self._adopted(handle))
        number, members = recorded or (0, ())
        found = Found(tuple(h.trainer for h in handles), number, members, finished == JobState.SUCCEEDED)
        await self._apply(membership.resume(self._state, found))

    async def _handle(self, event: Event | Handled) -> None:
        if isinstance(event, Handled):
            if not event.done.done():
                event.done.set_result(None)
            return
        if isinstance(event, Came) and isinstance(event.message, Done):
            self._rows.expect(event.message.steps)
        if isinstance(event, Lost | Suspected) and event.trainer in self._state.members:
            self._note_loss()
        await self._apply(membership.step(self._state, event))
        if isinstance(event, Lost):
            self._dismiss(event.trainer)  # dead for certain or not: nothing of it stays
        self._start_grace()

    async def _apply(self, outcome: membership.Outcome) -> None:
        self._state, commands = outcome
        for command in commands:
            await self._perform(command)
        while self._due:
            await self._apply(membership.step(self._state, self._due.pop(0)))

    async def _perform(self, command: membership.Command) -> None:
        match command:
            case StartTrainer(trainer=trainer):
                self._attend(trainer, self._started(trainer))
            case Withdraw(trainer=trainer):
                self._dismiss(trainer)
            case Kill(trainer=trainer):
                self._dismiss(trainer)
            case Send(trainer=trainer, message=message):
                self._send(trainer, message)
            case Reserve():
                self._due.append(Reserved(self._journal.reserve(), self._nonce()))
            case Record(generation=generation):
                self._journal.record(generation.number, tuple(m.trainer for m in generation.members))
            case Emit(kind=kind, data=data):
                self._emit(kind, dict(data))
            case Finish(outcome=outcome, reason=reason):
                await self._finish(JobState(outcome), reason)

    def _nonce(self) -> str:
        return f"{self._attempt}-{secrets.token_hex(16)}"

    def _start_grace(self) -> None:
        state = self._state
        if self._grace is None and state.phase is Phase.FORMING and len(state.ready) >= state.min_trainers:
            self._grace = self._spawn(self._later(START_GRACE_S, GraceOver()))

    async def _later(self, delay_s: float, event: Event) -> None:
        await asyncio.sleep(delay_s)
        self._events.put_nowait(event)

    # ---- trainers

    def _attend(self, trainer: str, start: Awaitable[TrainerHandle]) -> None:
        attendant = Attendant(trainer, start, self._events, self._rows, self._finishing)
        self._attendants[trainer] = attendant
        attendant.begin()

    async def _started(self, trainer: str) -> TrainerHandle:
        handle = await self._cluster.start_trainer(
            TrainerSetup(
                attempt=self._attempt,
                trainer=trainer,
                spec=self._spec,
                pulse=self._pulse.address,
                pulse_secret=self._pulse.secret,
                faults=self._faults,
            )
        )
        self._events.put_nowait(Started(trainer))
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
            self._spawn(attendant.end(END_GRACE_S), name=f"end-{trainer}")

    def _dismiss(self, trainer: str) -> None:
        """Fence: end the process whatever it does, without waiting for it here."""
        attendant = self._attendants.pop(trainer, None)
        if attendant is not None:
            self._spawn(attendant.end(0.0), name=f"kill-{trainer}")

    def _pulse_changed(self, trainer: str, condition: Condition, detail: str) -> None:
        if condition is Condition.RUNNING:
            self._events.put_nowait(Trusted(trainer))
        elif condition in (Condition.STOPPED, Condition.SILENT):
            self._events.put_nowait(Suspected(trainer, f"{condition}: {detail}"))

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
            if command.kind is CommandKind.CANCEL:
                self._events.put_nowait(Cancelled("cancelled by request"))
            elif command.trainers is not None:
                self._events.put_nowait(Resized(command.trainers))

    async def _end_if_disowned(self) -> None:
        await self._uplink.gone.wait()
        self._events.put_nowait(Cancelled("the control plane no longer knows this attempt"))

    def _emit(self, kind: EventKind, data: dict[str, JsonValue]) -> None:
        self._uplink.event(kind, **data)
        if kind is EventKind.GENERATION:
            self._note_generation(data)

    def _tell_state(self, state: JobState, reason: str) -> None:
        self._uplink.event(EventKind.STATE, state=state, reason=reason)

    def _note_loss(self) -> None:
        if self._lost_at is None and self._state.phase in (Phase.RUNNING, Phase.RESERVING, Phase.COLLECTING):
            self._lost_at = time.time()
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
        self._journal.finish(state)
        self._finishing.set_result(None)
        if state is JobState.SUCCEEDED and not await self._rows.complete(FLUSH_S):
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
