"""What the supervisor does in a world. Its commands are performed one by one, and it may crash between any two of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from surefoot.spec import JobState
from surefoot_actors.protocol.member.machine import At, MemberState
from surefoot_actors.protocol.membership import deadlines
from surefoot_actors.protocol.membership import machine as membership
from surefoot_actors.protocol.membership.machine import (
    CancelStart,
    CancelTimer,
    Committed,
    Finish,
    Kill,
    Lost,
    MembershipState,
    PauseRequested,
    Phase,
    Record,
    Reserve,
    Reserved,
    Resized,
    SaveState,
    Send,
    SetTimer,
    StartTrainer,
    StateSaved,
    Survivors,
    Suspected,
    SuspicionCleared,
    Timer,
    TimerFired,
)
from surefoot_actors.protocol.messages import End, EndGeneration, EnterGeneration, Hello, Raised, Returned

from .machines import Machines
from .trainers import Step, name
from .world import Bounds, Draft, Label, Supervisor, Trainer, Violation, World

__all__ = ["FINISH", "Supervisors"]

# R8: in which order a run is finished.
FINISH = ["record", "end"]


def _url(number: int) -> str:
    return f"c{number}"


class Supervisors:
    """The supervisor of a world, and those after it."""

    def __init__(self, bounds: Bounds, machines: Machines) -> None:
        self._bounds, self._machines = bounds, machines

    def begin(self, draft: Draft) -> Draft:
        """Perform the first supervisor's first commands."""
        outcome = self._machines.add_membership(membership.begin(self._new(draft)))
        return list(self._performed(draft, outcome.state, outcome.commands))[-1]

    def _new(self, draft: Draft) -> MembershipState:
        return MembershipState(
            num_sub_tasks=self._bounds.sub_tasks,
            target=draft.target,
            min_trainers=self._bounds.min_trainers,
            incarnation=draft.journal.incarnation,
            spares=self._bounds.warm,
            max_failures=1_000_000,
            saves=self._bounds.saves,
            checkpoints=tuple(_url(r) for r in sorted(draft.journal.stored | draft.journal.damaged, reverse=True)),
        )

    # ---- moves

    def moves(self, world: World) -> Iterator[Step]:
        if not world.supervisor.up:
            yield from self._restart(world)
            return
        for message in sorted(world.control):
            if message[0] == "from":
                yield from self._receive(world, message)
        for i, trainer in enumerate(world.trainers):
            yield from self._watch(world, i, trainer)
        yield from self._save(world)
        yield from self._faults(world)
        yield from self._timers(world)

    def _receive(self, world: World, message: tuple[str, int, int]) -> Iterator[Step]:
        _, i, number = message
        what = self._machines.messages.values[number]
        certain = not world.frozen >> i & 1
        label = ("supervisor takes", what)
        yield from self._handle(world, label, certain, number, acknowledged=message)
        if world.budget.doubles:
            draft = Draft(world)
            draft.spend("doubles")
            yield from self._handle(draft.world(), ("DOUBLED", *label), False, number)

    def _watch(self, world: World, i: int, trainer: Trainer) -> Iterator[Step]:
        if trainer.life == "dead":
            yield from self._handle(world, ("lost", i), True, Lost(name(i), "dead"))
        frozen, told = world.frozen >> i & 1, world.supervisor.told >> i & 1
        if trainer.life == "live" and frozen != told:
            event = Suspected(name(i), "frozen") if frozen else SuspicionCleared(name(i))
            draft = Draft(world)
            draft.supervisor = draft.supervisor._replace(told=world.supervisor.told ^ 1 << i)
            label = (type(event).__name__, i)
            yield from self._handle(draft.world(), label, True, event, even_if_ignored=True)

    def _save(self, world: World) -> Iterator[Step]:
        """Parked members write their shares; the state is saved when all have."""
        saving = [int(t[1:]) for t in world.supervisor.saving]
        if not saving or any(world.trainers[i].life != "live" or world.frozen >> i & 1 for i in saving):
            return
        members = [self._machines.member(world.trainers[i].machine) for i in saving]
        rounds = {m.round for m in members}
        if len(rounds) > 1 or any(m.at not in (At.BOUNDARY, At.END) for m in members):
            raise Violation(f"I9: saved while members are at {[(m.round, m.at.value) for m in members]}")
        draft = Draft(world)
        draft.supervisor = draft.supervisor._replace(saving=())
        draft.journal = draft.journal._replace(stored=draft.journal.stored | rounds)
        yield from self._handle(draft.world(), ("saved", *rounds), True, StateSaved(), even_if_ignored=True)

    def _timers(self, world: World) -> Iterator[Step]:
        """However long a timer is to run: whatever else happens may take longer."""
        for timer in sorted(world.supervisor.timers, key=lambda timer: timer.value):
            if timer is Timer.START_GRACE and self._is_founded(world.supervisor.machine):
                continue  # nobody asks for it till the run is founded anew: see _handle
            draft = Draft(world)
            draft.supervisor = draft.supervisor._replace(timers=world.supervisor.timers - {timer})
            yield from self._handle(
                draft.world(), ("FIRES", timer.value), True, TimerFired(timer), even_if_ignored=True
            )

    def _is_founded(self, machine: int) -> bool:
        return self._machines.membership(machine).generation is not None

    def grace_over(self, world: World) -> World:
        """The same world, once the grace that trainers enough to begin give the others is over, if it runs."""
        if Timer.START_GRACE not in world.supervisor.timers:
            return world
        machine, commands = self._machines.step_membership(world.supervisor.machine, TimerFired(Timer.START_GRACE))
        assert not commands
        timers = world.supervisor.timers - {Timer.START_GRACE}
        return world._replace(supervisor=world.supervisor._replace(machine=machine, timers=timers))

    def _faults(self, world: World) -> Iterator[Step]:
        state = self._machines.membership(world.supervisor.machine)
        ended = state.ended
        if not ended:
            yield from self._checkpoints(world)
        if not ended and not state.pausing and (world.budget.pauses or world.journal.pause):
            draft = Draft(world)
            if not world.journal.pause:
                draft.spend("pauses")
            draft.journal = draft.journal._replace(pause=True)
            # once somebody has asked for it, a restarted supervisor is told too
            certain = world.journal.pause
            yield from self._handle(draft.world(), ("PAUSE",), certain, PauseRequested(), even_if_ignored=True)
        if world.budget.resizes and not ended:
            target = self._bounds.resizes[-world.budget.resizes]
            draft = Draft(world)
            draft.spend("resizes")
            draft.target = target
            yield from self._handle(draft.world(), ("RESIZED", target), False, Resized(target), even_if_ignored=True)
        if world.budget.supervisor_crashes:
            yield ("SUPERVISOR CRASHES",), False, self._crash(Draft(world))

    def _checkpoints(self, world: World) -> Iterator[Step]:
        """The newest step's state becomes a checkpoint, sooner or later, whoever has been lost since; a checkpoint rots."""
        journal = world.journal
        newest = self._bounds.ends[max(s for _, s in world.rows)] if world.rows else 0
        if world.budget.checkpoints and newest and newest not in journal.stored | journal.damaged:
            draft = Draft(world)
            draft.spend("checkpoints")
            draft.journal = journal._replace(stored=journal.stored | {newest})
            event = Committed(_url(newest))
            yield from self._handle(draft.world(), ("CHECKPOINT", newest), False, event, even_if_ignored=True)
        if world.budget.damages:
            for number in journal.stored:
                draft = Draft(world)
                draft.spend("damages")
                draft.journal = journal._replace(stored=journal.stored - {number}, damaged=journal.damaged | {number})
                yield ("DAMAGED", number), False, draft

    def _handle(
        self,
        world: World,
        label: Label,
        certain: bool,
        event: Any,
        *,
        acknowledged: Any = None,
        even_if_ignored: bool = False,
    ) -> Iterator[Step]:
        """Feed an event and perform what comes of it, with a crash after each command where one may happen."""
        before = world.supervisor.machine
        machine, commands = self._machines.step_membership(before, event)
        if (machine, commands) == (before, ()) and not even_if_ignored:
            return
        self._check_ended_first(commands)
        given_up = self._given_up(world, before) if event == TimerFired(Timer.PATIENCE) else ()
        self._check_not_given_up(world, before, machine, given_up)
        *partly, whole = self._performed(Draft(world), machine, commands)
        # acknowledged when all is performed: what a dead supervisor left half done is told again
        whole.control -= {acknowledged}
        yield label, certain, whole
        if world.budget.supervisor_crashes:
            for k, draft in enumerate(partly):
                yield ("SUPERVISOR CRASHES after", k, "commands of", *label), False, self._crash(draft)
        anew = self._is_founded(before) and not self._is_founded(whole.supervisor.machine)
        if anew and Timer.START_GRACE in world.supervisor.timers:
            # it may have fired at any moment since the run was founded: the last of them stands for all
            label = (*label, "after", "FIRES", Timer.START_GRACE.value)
            yield from self._handle(self.grace_over(world), label, certain, event, acknowledged=acknowledged)

    def _given_up(self, world: World, machine: int) -> tuple[str, ...]:
        """R9: when patience is over, all are given up that have the state, each of which is told to be suspected."""
        silent = deadlines.silent(self._machines.membership(machine))
        for trainer in silent:
            i = int(trainer[1:])
            if world.trainers[i].life == "live" and not world.supervisor.told >> i & 1:
                raise Violation(f"R9: {trainer} is given up though nobody suspects it")
        return silent

    def _check_ended_first(self, commands: tuple[Any, ...]) -> None:
        """R9: whoever is gone without is ended before the next number is reserved, after which others take its place."""
        kinds = [type(c) for c in commands]
        if Reserve in kinds and Kill in kinds[kinds.index(Reserve) :]:
            raise Violation("R9: a number is reserved before those that are given up are ended")

    def _check_not_given_up(self, world: World, before: int, after: int, given_up: tuple[str, ...] = ()) -> None:
        generation = self._machines.membership(before).generation
        if generation is None or self._machines.membership(after).generation is not None:
            return
        if world.journal.finished or any(t.returned and t.life == "ended" for t in world.trainers):
            raise Violation("I4: a completed run begins again")
        for i, trainer in enumerate(world.trainers):
            member = any(m.trainer == name(i) for m in generation.members)
            fenced = name(i) in given_up or ("kill", i, 0) in world.control
            if trainer.life == "live" and member and not fenced and self._machines.member(trainer.machine).round >= 0:
                raise Violation(f"I4: the run is given up though {name(i)} lives with its state")

    # ---- commands

    def _performed(self, draft: Draft, machine: int, commands: tuple[Any, ...]) -> Iterator[Draft]:
        """The world after the last command; before it, where a supervisor may crash, the world before each of them."""
        draft.supervisor = draft.supervisor._replace(machine=machine)
        if draft.supervisor.saving and self._machines.membership(machine).phase is not Phase.SAVING:
            draft.supervisor = draft.supervisor._replace(saving=())
        if self._machines.membership(machine).ended:
            draft.supervisor = draft.supervisor._replace(timers=frozenset())
        todo = list(commands)
        while todo:
            if draft.budget.supervisor_crashes:
                yield Draft(draft.world())
            command = todo.pop(0)
            match command:
                case Reserve():
                    todo += self._reserve(draft)
                case Finish(outcome=outcome):
                    todo[:0] = [("finish", part, outcome) for part in FINISH]
                case ("finish", part, outcome):
                    self._finish(draft, part, outcome)
                case _:
                    self._perform(draft, command)
        yield draft

    def _reserve(self, draft: Draft) -> tuple[Any, ...]:
        number = draft.journal.counter + 1
        draft.journal = draft.journal._replace(counter=number)
        event = Reserved(number, f"n{number}")
        before = draft.supervisor.machine
        machine, commands = self._machines.step_membership(before, event)
        self._check_not_given_up(draft.world(), before, machine)
        draft.supervisor = draft.supervisor._replace(machine=machine)
        return commands

    def _perform(self, draft: Draft, command: membership.Command) -> None:
        match command:
            case Send(trainer=trainer, message=message):
                self._send(draft, int(trainer[1:]), message)
            case Kill(trainer=trainer):
                draft.send("kill", int(trainer[1:]), 0)
            case Record(generation=generation):
                self._decided(draft, generation)
                number = self._machines.decided(generation)
                draft.journal = draft.journal._replace(recorded=number)
            case SetTimer(timer=timer):
                draft.supervisor = draft.supervisor._replace(timers=draft.supervisor.timers | {timer})
            case CancelTimer(timer=timer):
                draft.supervisor = draft.supervisor._replace(timers=draft.supervisor.timers - {timer})
            case SaveState(members=members):
                draft.supervisor = draft.supervisor._replace(saving=members)
            case StartTrainer(trainer=trainer):
                i = int(trainer[1:])
                if i < self._bounds.room and draft.trainers[i].life in ("none", "dead"):
                    draft.put(i, Trainer(life="starting"))
            case CancelStart(trainer=trainer):
                i = int(trainer[1:])
                if i < self._bounds.room:
                    draft.put(i, Trainer(life="dead"))

    def _send(self, draft: Draft, i: int, message: Any) -> None:
        if isinstance(message, EnterGeneration):
            self._decided(draft, message.generation)
        if isinstance(message, EndGeneration):
            self._told(draft, message.number)
        if draft.trainers[i].life == "raised" and isinstance(message, End):
            draft.put(i, Trainer(life="ended", machine=draft.trainers[i].machine))
        if draft.trainers[i].life == "live":
            draft.send("to", i, self._machines.told(message))

    def _told(self, draft: Draft, number: int) -> None:
        """I6: a supervisor tells no number that an earlier one may have told."""
        if number * 1000 + draft.journal.incarnation < draft.told or (
            number == draft.told // 1000 and draft.told % 1000 != draft.journal.incarnation
        ):
            raise Violation(f"I6: number {number} is told again, by supervisor {draft.journal.incarnation}")
        draft.told = number * 1000 + draft.journal.incarnation

    def _decided(self, draft: Draft, generation: Any) -> None:
        number = self._machines.decided(generation)
        if number == draft.latest:
            return
        self._told(draft, generation.number)
        if draft.latest >= 0 and self._machines.generation(draft.latest).number >= generation.number:
            raise Violation(f"I6: generation {generation.number} is made again")
        draft.latest = number

    def _finish(self, draft: Draft, part: str, outcome: JobState) -> None:
        if outcome is JobState.PAUSED and draft.journal.pause:
            self._check_saved(draft)
        elif outcome is JobState.FAILED:
            self._check_failed(draft)
        elif outcome is not JobState.SUCCEEDED:
            raise Violation(f"I4: the run {outcome}")
        elif not draft.journal.finished and not any(t.returned for t in draft.trainers):
            raise Violation("I4: the run is complete, but no trainer ran the code after the loop")
        elif self._bounds.saves and self._bounds.ends[-1] not in draft.journal.stored | draft.journal.damaged:
            raise Violation("I9: the run is complete, but its last state is not saved")
        if part == "record":
            draft.journal = draft.journal._replace(finished=outcome)
        else:
            for i, trainer in enumerate(draft.trainers):
                if trainer.life in ("live", "starting", "raised"):
                    draft.put(i, trainer._replace(life="ended", group=-1, op="-", piece=None, late=None))

    def _check_failed(self, draft: Draft) -> None:
        """I10: the run fails only by what two trainers raised, or when nobody is left that others could go by."""
        if draft.journal.finished is JobState.FAILED:
            return
        raised = [t for t in draft.trainers if t.life == "raised" or t.life == "dead"]
        if self._bounds.bug is not None and raised:
            return
        if not self._bounds.raises or not raised:
            raise Violation("I4: the run failed")
        newest = self._machines.generation(draft.latest) if draft.latest >= 0 else None
        members = {m.trainer for m in newest.members} if newest else set()
        for i, trainer in enumerate(draft.trainers):
            given_up = ("kill", i, 0) in draft.control
            well = trainer.life == "live" and not given_up and not (draft.frozen | draft.supervisor.told) >> i & 1
            if well and name(i) in members and self._machines.member(trainer.machine).round >= 0:
                raise Violation(f"I10: the run failed by what one trainer raised, though {name(i)} trains on")

    def _check_saved(self, draft: Draft) -> None:
        """I9: a pause throws nothing away that anybody holds, but for what is fenced."""
        newest = self._machines.generation(draft.latest) if draft.latest >= 0 else None
        for i, trainer in enumerate(draft.trainers):
            fenced = ("kill", i, 0) in draft.control or draft.frozen >> i & 1
            member = newest is not None and any(m.trainer == name(i) for m in newest.members)
            if trainer.life != "live" or fenced or not member:
                continue
            held = self._machines.member(trainer.machine).round
            if held > 0 and held not in draft.journal.stored | draft.journal.damaged:
                raise Violation(f"I9: paused though {name(i)} holds round {held}, which is not saved")

    # ---- one supervisor after the other

    def _crash(self, draft: Draft) -> Draft:
        """What trainers have to say is kept by them; a new supervisor heeds nothing of it but a completed run."""
        draft.spend("supervisor_crashes")
        draft.supervisor = Supervisor(up=False, machine=-1)
        draft.control = frozenset(
            m
            for m in draft.control
            if m[0] != "from" or isinstance(self._machines.messages.values[m[2]], Raised | Returned)
        )
        return draft

    def _restart(self, world: World) -> Iterator[Step]:
        draft = Draft(world)
        draft.journal = draft.journal._replace(incarnation=draft.journal.incarnation + 1)
        recorded = draft.journal.recorded
        generation = self._machines.generation(recorded) if recorded >= 0 else None
        found = Survivors(
            trainers=tuple(name(i) for i, t in enumerate(world.trainers) if t.life in ("starting", "live", "raised")),
            number=generation.number if generation else 0,
            members=tuple(m.trainer for m in generation.members) if generation else (),
            finished=draft.journal.finished,
        )
        outcome = self._machines.add_membership(membership.resume(self._new(draft), found))
        draft.supervisor = Supervisor(up=True, machine=-1)
        *partly, whole = self._performed(draft, outcome.state, outcome.commands)
        yield ("supervisor restarts",), True, whole
        if world.budget.supervisor_crashes:
            for k, half in enumerate(partly):
                yield ("SUPERVISOR CRASHES after", k, "commands of its start"), False, self._crash(half)

    # ---- what the end of the moves is

    def at_rest(self, world: World) -> bool:
        """Whether it is right that nothing is bound to happen any more."""
        supervisor = world.supervisor
        if not supervisor.up:
            return False
        state = self._machines.membership(supervisor.machine)
        if state.phase is Phase.ENDED:
            return bool(world.journal.finished) and not any(
                t.life in ("live", "starting", "raised") for t in world.trainers
            )
        # waits for the cluster to have room; everything else that is waited for has an end
        return state.phase is Phase.FORMING and len(state.ready) < state.min_trainers

    def ready(self, world: World, i: int) -> Step:
        """A trainer's train function reaches `steps()`."""
        draft = Draft(world)
        draft.spend("spares")
        machine = self._machines.members.number(MemberState(trainer=name(i), num_sub_tasks=self._bounds.sub_tasks))
        draft.put(i, Trainer(life="live", machine=machine, thread=-2))
        hello = Hello(
            trainer=name(i), store=("host", i), fingerprint=(), pid=i, node="node", num_steps=len(self._bounds.steps)
        )
        draft.send("from", i, self._machines.messages.number(hello))
        return ("ready", i), True, draft
