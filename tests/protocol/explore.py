"""Exploration of worlds: exhaustively within bounds, or by random walks beyond them."""

from __future__ import annotations

import gc
import random
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from surefoot_actors.protocol.member import machine as member
from surefoot_actors.protocol.member.machine import At
from surefoot_actors.protocol.membership.machine import Phase, Timer
from surefoot_actors.protocol.messages import Elected, NoticeGiven, RequestBoundary, Restore

from .machines import Machines
from .supervisors import Supervisors
from .trainers import Step, Trainers
from .world import Bounds, Budget, Draft, Journal, Label, Move, Supervisor, Trainer, Violation, World

__all__ = ["Explored", "Explorer", "explore", "walk"]


class Explored(NamedTuple):
    """How far an exploration has come: with no violation, or it had raised one."""

    worlds: int
    moves: int
    ends: int


class Explorer:
    """All that can happen within bounds."""

    def __init__(self, bounds: Bounds, machines: Machines | None = None) -> None:
        """`machines`: with what they have answered before, within other bounds."""
        self.bounds, self.machines = bounds, machines or Machines()
        self._trainers = Trainers(bounds, self.machines)
        self._supervisors = Supervisors(bounds, self.machines)

    def first(self) -> World:
        """The world that an exploration starts from."""
        draft = self._supervisors.begin(Draft(_empty(self.bounds)))
        world = self._canonical(draft)
        while self.bounds.founded and not self._is_founded(world):
            draft = next(d for label, certain, d in self._steps(world) if certain and label[0] != "Opened")
            world = self._canonical(draft)
        bounds = self.bounds
        world = self._supervisors.grace_over(world) if bounds.founded else world
        budget = Budget(
            bounds.crashes,
            bounds.freezes,
            bounds.supervisor_crashes,
            len(bounds.resizes),
            bounds.doubles,
            bounds.breaks,
            bounds.notices,
            bounds.checkpoints,
            bounds.damages,
            bounds.pauses,
            bounds.raises,
            world.budget.spares,
        )
        return world._replace(budget=budget)

    def _is_founded(self, world: World) -> bool:
        admitted = [t for t in world.trainers if t.machine >= 0 and self.machines.member(t.machine).at is At.USER]
        return not world.control and len(admitted) == self.bounds.trainers

    def moves(self, world: World) -> list[Move]:
        """Everything that may happen next. Raises Violation if a move breaks an invariant, or nothing is left that will happen."""
        found: list[Move] = []
        try:
            for move in self._moves(world):
                found.append(move)
        except AssertionError as error:
            violation = error if isinstance(error, Violation) else Violation(f"the machine itself: {error}")
            raise violation from error
        if not any(move.certain for move in found) and not self._supervisors.at_rest(world):
            raise Violation(f"I4: stuck: {self.describe(world)}")
        return found

    def _moves(self, world: World) -> Iterator[Move]:
        if self._is_quiet(world):
            for i in range(len(world.trainers)):
                for label, certain, draft in self._trainers.moves(world, i):
                    if certain:
                        yield Move(label, certain, self._canonical(draft))
                        return
        for label, certain, draft in self._steps(world):
            yield Move(label, certain, self._canonical(draft))

    def _steps(self, world: World) -> Iterator[Step]:
        for i, trainer in enumerate(world.trainers):
            yield from self._trainers.moves(world, i)
            if trainer.life == "starting" and world.budget.spares:
                yield self._supervisors.ready(world, i)
        for message in sorted(world.control):
            if message[0] == "to" and not world.frozen >> message[1] & 1:
                yield from self._deliver(world, message)
            elif message[0] == "kill":
                yield ("killed", message[1]), True, _killed(Draft(world), message[1])
        yield from self._faults(world)
        yield from self._supervisors.moves(world)

    def _deliver(self, world: World, message: tuple[str, int, int]) -> Iterator[Step]:
        _, i, number = message
        what = self.machines.messages.values[number]
        sent_now = world.supervisor.up and what.incarnation == world.journal.incarnation
        for doubled in (False, True) if world.budget.doubles else (False,):
            draft = Draft(world)
            if doubled:
                draft.spend("doubles")
            else:
                draft.control -= {message}
            if isinstance(what, Restore):
                self._trainers.restore(draft, i, what)
            else:
                self._trainers.feed(draft, i, number)
            yield ("DOUBLED" if doubled else "delivered", i, what), sent_now and not doubled, draft

    def _faults(self, world: World) -> Iterator[Step]:
        for i, trainer in enumerate(world.trainers):
            if world.budget.raises and self._trainers.may_raise(world, i):
                draft = Draft(world)
                draft.spend("raises")
                self._trainers.raise_(draft, i, f"its own, of {i}")
                yield ("RAISES", i), False, draft
            if trainer.life != "live":
                continue
            if world.budget.crashes:
                draft = Draft(world)
                draft.spend("crashes")
                yield ("CRASH", i), False, _killed(draft, i)
            if world.budget.notices and not world.frozen >> i & 1:
                draft = Draft(world)
                draft.spend("notices")
                notice = NoticeGiven(trainer=f"t{i}", reason="notice")
                draft.send("from", i, self.machines.messages.number(notice))
                yield ("NOTICE", i), False, draft
            if world.frozen >> i & 1 or world.budget.freezes:
                draft = Draft(world)
                draft.frozen ^= 1 << i
                if not world.frozen >> i & 1:
                    draft.spend("freezes")
                yield ("WAKES" if world.frozen >> i & 1 else "FREEZES", i), False, draft

    # ---- fewer worlds

    def _is_quiet(self, world: World) -> bool:
        """Nothing can go wrong any more and nothing is under way: the order in which trainers go on makes no difference."""
        if world.control or world.frozen or any(world.budget[:-1]) or not world.supervisor.up:
            return False
        state = self.machines.membership(world.supervisor.machine)
        if state.phase is not Phase.RUNNING or state.pausing != world.journal.pause:
            return False
        if Timer.PATIENCE in world.supervisor.timers:
            return False
        return all(
            t.late is None and (t.life != "live" or t.group == world.latest) for t in world.trainers
        ) and not any(
            t.life in ("starting", "dead", "raised") and self._matters(world, i) for i, t in enumerate(world.trainers)
        )

    def _matters(self, world: World, i: int) -> bool:
        state = self.machines.membership(world.supervisor.machine)
        trainer = f"t{i}"
        if world.trainers[i].life == "starting":
            return world.budget.spares > 0
        return trainer in state.members or trainer in state.ready or trainer in state.starting

    def _canonical(self, draft: Draft) -> World:
        """Drop what nobody heeds, now and ever."""
        trainers = draft.trainers
        if dropped := [m for m in draft.control if not self._counts(draft, *m)]:
            draft.control = draft.control.difference(dropped)
        if dropped_data := [m for m in draft.data if not self._may_arrive(trainers[m[3]], m[0])]:
            draft.data = draft.data.difference(dropped_data)
        told = draft.supervisor.told
        if told or draft.frozen:
            live = sum(1 << i for i, t in enumerate(trainers) if t.life == "live")
            draft.frozen &= live
            draft.supervisor = draft.supervisor._replace(told=told & live)
        for i, t in enumerate(trainers):
            if t.late is not None and self._trainers.ignores(t.machine, t.late):
                draft.put(i, t._replace(late=None))
        return draft.world()

    def _may_arrive(self, trainer: Trainer, group: int) -> bool:
        if trainer.life != "live" or trainer.group == group:
            return trainer.life == "live"
        state, number = self.machines.member(trainer.machine), self.machines.generation(group).number
        return state.number < number and not member.refuses(state, number, state.incarnation)

    def _counts(self, draft: Draft, way: str, i: int, number: int) -> bool:
        trainer = draft.trainers[i]
        if way == "kill":
            return trainer.life in ("live", "starting", "raised")
        if trainer.life != "live" and (way != "from" or trainer.life != "raised"):
            return False
        what = self.machines.messages.values[number]
        if isinstance(what, Restore):
            return what.incarnation >= self.machines.member(trainer.machine).incarnation
        if way == "from":
            if not draft.supervisor.up:
                return True
            machine = draft.supervisor.machine
            return self.machines.step_membership(machine, number) != (machine, ())
        if not self._trainers.ignores(trainer.machine, number):
            return True
        # ignored now, but perhaps not later
        state = self.machines.member(trainer.machine)
        if what.incarnation < state.incarnation:
            return False
        if isinstance(what, Elected):
            return state.at not in (At.END, At.CONCLUDED)
        return isinstance(what, RequestBoundary) and what.number > state.number

    def describe(self, world: World) -> str:
        """The world in a line, for messages."""
        parts = []
        if world.supervisor.up:
            state = self.machines.membership(world.supervisor.machine)
            parts.append(f"supervisor {state.phase.value} at {state.number}, members {','.join(state.members)}")
        for i, trainer in enumerate(world.trainers):
            parts.append(f"t{i} {trainer.life}")
            if trainer.life == "live":
                m = self.machines.member(trainer.machine)
                parts[-1] += (
                    f" {m.at.value}/{m.stage.value} round {m.round} generation {m.number}{'' if m.live else ' (over)'}"
                )
                parts[-1] += f" group {trainer.op} thread {trainer.thread}"
        messages = [(way, i, self.machines.messages.values[n] if way != "kill" else "") for way, i, n in world.control]
        return "; ".join(parts) + (f"; under way {messages}" if messages else "")


def _empty(bounds: Bounds) -> World:
    return World(
        trainers=(Trainer(),) * bounds.room,
        supervisor=Supervisor(up=True, machine=-1),
        journal=Journal(stored=frozenset(bounds.stored)),
        control=frozenset(),
        data=frozenset(),
        budget=Budget(0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, bounds.room),
        target=bounds.trainers,
        frozen=0,
        latest=-1,
        told=0,
        rows=frozenset(),
    )


def _killed(draft: Draft, i: int) -> Draft:
    """What it sent into its group may still arrive; what it had to say to the supervisor is gone."""
    was = draft.trainers[i]
    draft.put(i, Trainer(life="dead", machine=was.machine, returned=was.returned))
    draft.control = frozenset(m for m in draft.control if m[1] != i)
    return draft


def explore(bounds: Bounds, limit: int = 2_000_000, machines: Machines | None = None) -> Explored:
    """Visit every world within bounds, the nearest first. Raises Violation with the shortest story."""
    with _uncollected():
        return _explore(Explorer(bounds, machines), limit)


@contextmanager
def _uncollected() -> Iterator[None]:
    """Worlds are many, live to the end, and hold no cycle: looking for cycles among them would take a part of the time."""
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()


def _explore(explorer: Explorer, limit: int) -> Explored:
    first = explorer.first()
    came_from: dict[World, tuple[World, Label] | None] = {first: None}
    todo = deque([first])
    moves = ends = 0
    while todo:
        world = todo.popleft()
        try:
            found = explorer.moves(world)
        except Violation as violation:
            violation.story = _story(came_from, world)
            raise
        ends += not any(move.certain for move in found)
        for label, _, after in found:
            moves += 1
            came = (world, label)
            if came_from.setdefault(after, came) is came:
                todo.append(after)
        assert len(came_from) < limit, f"more than {limit} worlds"
    return Explored(len(came_from), moves, ends)


def _story(came_from: dict[World, tuple[World, Label] | None], world: World) -> tuple[Label, ...]:
    labels = []
    step = came_from[world]
    while step is not None:
        world, label = step
        labels.append(label)
        step = came_from[world]
    return tuple(reversed(labels))


def walk(explorer: Explorer, chance: random.Random, fault: float) -> int:
    """Go one random way to its end, taking what need not happen with probability `fault`. Return its length."""
    world = explorer.first()
    story: list[Label] = []
    while True:
        try:
            moves = explorer.moves(world)
        except Violation as violation:
            violation.story = tuple(story)
            raise
        certain = [m for m in moves if m.certain]
        others = [m for m in moves if not m.certain]
        if not certain and (not others or chance.random() < 0.5):
            return len(story)
        pool = others if others and (not certain or chance.random() < fault) else certain
        label, _, world = chance.choice(pool)
        story.append(label)
