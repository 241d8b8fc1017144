"""What trainers do in a world: the training thread, the data plane, and the commands of the member machine."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from surefoot_actors.protocol.member import machine as member
from surefoot_actors.protocol.member.machine import (
    At,
    AtBoundary,
    AtEnd,
    Close,
    Exchanged,
    Form,
    Gathered,
    LeafMade,
    MemberState,
    Merge,
    Opened,
    OwnGroupFailed,
    Resume,
    StateCame,
    StateServed,
    Stop,
    Tell,
    VectorCame,
)
from surefoot_actors.protocol.messages import End, Generation, NotRestored, Raised, Restore, Restored, Returned
from surefoot_actors.protocol.tree import bits

from .machines import Machines
from .world import ASLEEP, AWAKE, Bounds, Draft, Label, Trainer, Violation, World

__all__ = ["Trainers", "name", "row_key"]

Step = tuple[Label, bool, Draft]


def name(i: int) -> str:
    return f"t{i}"


def row_key(step: int, generation: int) -> Any:
    """R10: the ledger is keyed by step."""
    return step


class Trainers:
    """All trainers of a world."""

    def __init__(self, bounds: Bounds, machines: Machines) -> None:
        self._bounds, self._machines = bounds, machines
        # by group, operation and trainer
        self._sources_of: dict[tuple[int, str, int], tuple[int, ...]] = {}

    # ---- moves

    def moves(self, world: World, i: int) -> Iterator[Step]:
        trainer = world.trainers[i]
        if trainer.life == "live" and not world.frozen >> i & 1:
            state = self._machines.member(trainer.machine)
            yield from self._thread(world, i, trainer, state)
            yield from self._plane(world, i, trainer, state)

    def _thread(self, world: World, i: int, trainer: Trainer, state: MemberState) -> Iterator[Step]:
        bug = self._bounds.bug
        if trainer.thread > 0 and bug is not None and state.round == bug[0] and trainer.thread >> bug[1] & 1:
            draft = Draft(world)
            self.raise_(draft, i, "a bug", bug[1])
            yield ("raises", i, "in sub-task", bug[1], "of round", state.round), True, draft
        elif trainer.thread > 0:
            draft = Draft(world)
            self._leaves(draft, i)
            yield ("leaf", i, bits(trainer.thread), "of round", state.round), True, draft
        elif trainer.thread == AWAKE and state.at is At.USER:
            event = self._next_event(trainer, state)
            draft = Draft(world)
            if isinstance(event, AtBoundary):
                self._keep_row(draft, self._bounds.ends.index(state.round), state.number)
            self.feed(draft, i, event)
            yield (type(event).__name__, i, "round", state.round), True, draft
        elif trainer.thread == AWAKE and state.at is At.CONCLUDED and not trainer.returned:
            draft = Draft(world)
            draft.put(i, trainer._replace(returned=True))
            draft.send("from", i, self._machines.messages.number(Returned(trainer=name(i))))
            yield ("returned", i), True, draft

    def may_raise(self, world: World, i: int) -> bool:
        """Whether the user's code runs there."""
        trainer = world.trainers[i]
        if trainer.life == "starting":
            return True
        if trainer.life != "live" or world.frozen >> i & 1 or trainer.thread == ASLEEP or trainer.returned:
            return False
        return self._machines.member(trainer.machine).at in (At.USER, At.ROUND, At.CONCLUDED)

    def raise_(self, draft: Draft, i: int, what: str, sub_task: int = -1) -> None:
        """End the training thread by an error, and tell it. What was told before arrives all the same."""
        was = draft.trainers[i]
        round_ = self._machines.member(was.machine).round if was.life == "live" else -1
        raised = Raised(
            trainer=name(i), kind=what, message="", traceback="", round=round_, sub_task=sub_task, line=what
        )
        draft.put(i, Trainer(life="raised", machine=was.machine))
        draft.control = frozenset(m for m in draft.control if m[1] != i or m[0] != "to")
        draft.send("from", i, self._machines.messages.number(raised))

    def _keep_row(self, draft: Draft, step: int, generation: int) -> None:
        draft.rows |= {(row_key(step, generation), step)}
        if len({s for _, s in draft.rows}) < len(draft.rows):
            raise Violation(f"R10: step {step} has two rows in the ledger")

    def _next_event(self, trainer: Trainer, state: MemberState) -> member.Event:
        ends = self._bounds.ends
        if state.round in ends and not trainer.fresh:
            return AtBoundary()
        if state.round == ends[-1]:
            return AtEnd(len(ends), "digest")
        return Opened()

    def _leaves(self, draft: Draft, i: int) -> None:
        computed = draft.trainers[i].thread
        for v in bits(computed):
            trainer = draft.trainers[i]
            state = self._machines.member(trainer.machine)
            if state.at is At.ROUND and state.own >> v & 1:
                draft.put(i, trainer._replace(ever=trainer.ever | 1 << v))
            self.feed(draft, i, LeafMade(v))
        draft.put(i, draft.trainers[i]._replace(thread=AWAKE))
        self._settle(draft, i)

    def _plane(self, world: World, i: int, trainer: Trainer, state: MemberState) -> Iterator[Step]:
        if trainer.late is not None:
            draft = Draft(world)
            draft.put(i, trainer._replace(late=None))
            self.feed(draft, i, trainer.late)
            yield ("late", i, trainer.late), False, draft
        found = self._completes(world, i, trainer)
        if found is not None:
            event, taken, piece = found
            draft = Draft(world)
            self._complete(draft, i, event, taken, piece)
            # what a lost peer has sent may be lost with it
            certain = all(self._in_group(world, j, trainer.group) for j in self._sources(i, trainer))
            yield (type(event).__name__, i, "round", state.round, "generation", event.generation), certain, draft
        if world.budget.breaks and trainer.op in ("take", "miss", "exchange", "gather"):
            draft = Draft(world)
            draft.spend("breaks")
            draft.put(i, trainer._replace(op="broken"))
            self.feed(draft, i, OwnGroupFailed(self._machines.generation(trainer.group).number, "injected"))
            yield ("GROUP BREAKS", i), False, draft

    def _in_group(self, world: World, j: int, group: int) -> bool:
        return world.trainers[j].life == "live" and world.trainers[j].group == group

    # ---- the data plane

    def _sources(self, i: int, trainer: Trainer) -> tuple[int, ...]:
        """Whom the open group's operation waits for."""
        if trainer.group < 0:
            return ()
        key = (trainer.group, trainer.op, i)
        found = self._sources_of.get(key)
        if found is None:
            found = self._sources_of[key] = self._find_sources(*key)
        return found

    def _find_sources(self, group: int, op: str, i: int) -> tuple[int, ...]:
        members, numbers = self._machines.generation(group).members, self._machines.trainers_of(group)
        match op:
            case "miss":
                source = members[numbers.index(i)].source
                assert source is not None
                return (numbers[source],)
            case "take":
                return tuple(j for j, m in zip(numbers, members, strict=True) if m.role == "settled")
            case "exchange" | "gather":
                return tuple(j for j in numbers if j != i)
            case _:
                return ()

    def _completes(self, world: World, i: int, trainer: Trainer) -> tuple[Any, frozenset[Any], Any] | None:
        """The event that completes the group's operation, the messages it takes, and what comes of them; None: not yet."""
        if trainer.group < 0 or trainer.op in ("-", "broken"):
            return None
        number = self._machines.generation(trainer.group).number
        if trainer.op == "give":
            return StateServed(number), frozenset(), None
        sources = self._sources(i, trainer)
        if len(world.data) < len(sources):
            return None
        group, op = trainer.group, trainer.op
        taken = frozenset(m for m in world.data if m[0] == group and m[3] == i and m[1] == op and m[2] in sources)
        if len(taken) < len(sources):
            return None
        whats = [m[4] for m in taken]
        match op:
            case "miss":
                return VectorCame(number), taken, whats[0]
            case "take":
                return StateCame(number, all(kept for _, _, kept in whats)), taken, whats
            case "exchange":
                return Exchanged(number), taken, self._merge([trainer.piece, *whats])
            case _:
                pieces = [trainer.piece, *whats]
                right = len({p[0] for p in pieces}) == 1 and all(p[1] for p in pieces)
                flag = any(p[2] for p in pieces)
                return Gathered(number, flag), taken, (pieces[0][0], right)

    def _merge(self, pieces: list[Any]) -> tuple[int, int, bool]:
        """The merged slice: right if every sub-task of one round is in it exactly once."""
        rounds = {p[0] for p in pieces}
        together = 0
        for _, mask, _ in pieces:
            together += mask  # a doubled bit carries, a missing one lacks
        right = len(rounds) == 1 and together == self._bounds.all_sub_tasks
        return pieces[0][0], int(right), any(p[2] for p in pieces)

    def _complete(self, draft: Draft, i: int, event: Any, taken: frozenset[Any], piece: Any) -> None:
        draft.data -= taken
        trainer = draft.trainers[i]
        state = self._machines.member(trainer.machine)
        draft.put(i, trainer._replace(op="-", piece=None, half=False))
        match event:
            case Exchanged():
                draft.put(i, trainer._replace(op="gather", piece=piece))
                self._send_data(draft, i, "gather", self._others(i, trainer.group), piece)
            case Gathered():
                self._check_commit(draft, i, state, piece == (state.round, True), f"merge {piece}")
            case VectorCame():
                self._check_commit(draft, i, state, piece == state.round, f"vector of round {piece}")
            case StateCame():
                start = self._machines.generation(trainer.group).start
                if not piece:
                    raise Violation(f"I7: {name(i)} joins at {start}, and nobody gives it the state")
                if any((round_, clean) != (start, True) for round_, clean, _ in piece):
                    raise Violation(
                        f"I7: {name(i)} takes stripes (round, applied, ...) {piece}, though it joins at {start}"
                    )
        self.feed(draft, i, event)

    def _check_commit(self, draft: Draft, i: int, state: MemberState, right: bool, what: str) -> None:
        if not right:
            raise Violation(f"I1: {name(i)} commits round {state.round} by a {what}")
        if draft.latest < 0:
            return
        newest = self._machines.generation(draft.latest)
        if newest.number > state.number and any(m.trainer == name(i) for m in newest.members):
            raise Violation(f"I3: {name(i)} commits in generation {state.number}, though {newest.number} is decided")

    def _others(self, i: int, group: int) -> list[int]:
        return [j for j in self._machines.trainers_of(group) if j != i]

    def _send_data(self, draft: Draft, i: int, kind: str, to: list[int], what: Any) -> None:
        group = draft.trainers[i].group
        draft.data |= {(group, kind, i, j, what) for j in to}

    def restore(self, draft: Draft, i: int, restore: Restore) -> None:
        """Read a checkpoint over the tracked state, and answer; members read none, and say so."""
        trainer, number = draft.trainers[i], int(restore.url[1:])
        state = self._machines.member(trainer.machine)
        if restore.incarnation < state.incarnation:
            return
        if not member.may_restore(state):
            no = NotRestored(trainer=name(i), url=restore.url, cause="late", reason="a member")
            draft.send("from", i, self._machines.messages.number(no))
            return
        if number not in draft.journal.stored:
            no = NotRestored(trainer=name(i), url=restore.url, cause="damaged", reason="rotten")
            draft.send("from", i, self._machines.messages.number(no))
            return
        draft.put(i, trainer._replace(holds=number, half=False))
        step = self._bounds.ends.index(number) + 1
        yes = Restored(trainer=name(i), url=restore.url, round=number, step=step)
        draft.send("from", i, self._machines.messages.number(yes))

    # ---- the machine

    def feed(self, draft: Draft, i: int, event: Any) -> None:
        """Feed an event, a message's number among them, to a trainer's machine, and perform its commands."""
        trainer = draft.trainers[i]
        before = self._machines.member(trainer.machine)
        machine, commands = self._machines.step_member(trainer.machine, event)
        after = self._machines.member(machine)
        trainer = trainer._replace(machine=machine)
        if after.number < before.number:
            raise Violation(f"I6: {name(i)} goes from generation {before.number} back to {after.number}")
        if after.round != before.round:
            if isinstance(after.generation, Generation) and before.round < 0 and not isinstance(event, StateCame):
                self._check_founder(trainer, i, after)
            trainer = trainer._replace(ever=0, holds=0)
        if after.at is At.USER and (before.at is not At.USER or isinstance(event, AtBoundary)):
            trainer = trainer._replace(fresh=before.at is not At.ROUND)
        draft.put(i, trainer)
        for command in commands:
            self._perform(draft, i, command)
        self._settle(draft, i)

    def _check_founder(self, trainer: Trainer, i: int, state: MemberState) -> None:
        if trainer.holds != state.round:
            raise Violation(f"I8: {name(i)} goes on at round {state.round} with the state of round {trainer.holds}")

    def _perform(self, draft: Draft, i: int, command: member.Command) -> None:
        trainer = draft.trainers[i]
        match command:
            case Tell(message=message):
                draft.send("from", i, self._machines.told(message, i))
            case Close():
                self._close(draft, i)
            case Form():
                self._form(draft, i, command)
            case Merge(round=round_, flag=flag):
                own = self._machines.member(trainer.machine).own
                draft.put(i, trainer._replace(op="exchange", piece=(round_, own, flag)))
                self._send_data(draft, i, "exchange", self._others(i, trainer.group), (round_, own, flag))
            case Resume() if trainer.thread == ASLEEP:
                draft.put(i, trainer._replace(thread=AWAKE))
            case Stop():
                draft.put(i, trainer._replace(life="ended", group=-1, op="-", piece=None, late=None))

    def _form(self, draft: Draft, i: int, form: Form) -> None:
        trainer = draft.trainers[i]
        state = self._machines.member(trainer.machine)
        op = {"behind": "miss", "joining": "take", "settled": "give" if form.state_to else "-"}[form.role]
        group = self._machines.decided(form.generation)
        numbers = self._machines.trainers_of(group)
        draft.put(i, trainer._replace(group=group, op=op, piece=None))
        if form.role == "settled" and trainer.half:
            raise Violation(f"I7: {name(i)} founds the run, though it holds part of a state that is lost")
        if form.vector_to and not state.retained:
            raise Violation(f"I2: {name(i)} is to give the vector of round {state.round - 1} and holds none")
        clean = state.at in (At.START, At.BOUNDARY)
        self._send_data(draft, i, "miss", [numbers[k] for k in form.vector_to], state.round - 1)
        self._send_data(draft, i, "take", [numbers[k] for k in form.state_to], (state.round, clean, state.retained))

    def _close(self, draft: Draft, i: int) -> None:
        """Close the group. What it has completed just now may reach the machine all the same."""
        trainer = draft.trainers[i]
        if trainer.group < 0:
            return
        found = self._completes(draft.world(), i, trainer)
        late = found[0] if found and not self.ignores(trainer.machine, found[0]) else None
        half = trainer.half or (trainer.op == "take" and self._machines.generation(trainer.group).start > 0)
        draft.data = frozenset(m for m in draft.data if m[3] != i)
        draft.put(i, trainer._replace(group=-1, op="-", piece=None, late=late, half=half))

    def ignores(self, machine: int, event: Any) -> bool:
        return self._machines.step_member(machine, event) == (machine, ())

    # ---- the thread

    def _sent_away(self, draft: Draft, i: int) -> bool:
        """Killed, or told to end, though it has not come to that yet."""
        values = self._machines.messages.values
        return any(
            m[1] == i and (m[0] == "kill" or (m[0] == "to" and isinstance(values[m[2]], End))) for m in draft.control
        )

    def _settle(self, draft: Draft, i: int) -> None:
        """Let an awake thread go on to where it waits or computes."""
        trainer = draft.trainers[i]
        state = self._machines.member(trainer.machine)
        if trainer.thread != AWAKE or trainer.life != "live" or state.at in (At.USER, At.CONCLUDED):
            return
        first = member.next_sub_task(state) if state.at is At.ROUND else None
        if first is None:
            draft.put(i, trainer._replace(thread=ASLEEP))
            return
        picked = 1 << first if self._bounds.fine else state.own & ~state.held
        self._check_pick(draft, i, state, picked)
        draft.put(i, trainer._replace(thread=picked))

    def _check_pick(self, draft: Draft, i: int, state: MemberState, picked: int) -> None:
        """I5: nothing is computed again that a trainer holds which is not lost."""
        if draft.trainers[i].ever & picked:
            raise Violation(f"I5: {name(i)} computes {bits(picked)} of round {state.round} again")
        if draft.latest < 0 or name(i) not in [m.trainer for m in self._machines.generation(draft.latest).members]:
            return  # fenced: its own waste
        for j, other in enumerate(draft.trainers):
            if j == i or other.life not in ("live", "ended") or self._sent_away(draft, j):
                continue
            theirs = self._machines.member(other.machine)
            committed = other.life == "live" and theirs.round > state.round
            if committed or (theirs.round == state.round and other.ever & picked):
                raise Violation(
                    f"I5: {name(i)} computes {bits(picked)} of round {state.round}; {name(j)} at round {theirs.round} has it"
                )
