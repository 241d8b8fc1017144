"""The two machines under test, memoized: states, events and commands are small integers and tuples, so that worlds are cheap to keep.

Nothing is changed but what no behaviour hangs on: reasons are dropped, and counters that only limit how long one tries.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import fields, replace
from typing import Any, NamedTuple

from surefoot_actors.protocol.member import machine as member
from surefoot_actors.protocol.member.machine import MemberState
from surefoot_actors.protocol.membership import machine as membership
from surefoot_actors.protocol.membership.machine import MembershipState, MessageReceived
from surefoot_actors.protocol.membership.machine import Outcome as MembershipOutcome
from surefoot_actors.protocol.messages import Generation, Report

__all__ = ["Machines", "Outcome"]


class Outcome(NamedTuple):
    """A machine's answer: its next state and the commands, as interned numbers and command objects."""

    state: int
    commands: tuple[Any, ...]


class Table:
    """Values and their numbers."""

    def __init__(self) -> None:
        self.values: list[Any] = []
        self._numbers: dict[Hashable, int] = {}

    def number(self, value: Any, key: Hashable | None = None) -> int:
        key = value if key is None else key
        found = self._numbers.get(key)
        if found is None:
            found = self._numbers[key] = len(self.values)
            self.values.append(value)
        return found


class Machines:
    """Interned states of both machines, and their steps, each computed once."""

    def __init__(self) -> None:
        self.members, self.memberships = Table(), Table()
        self.messages, self.generations = Table(), Table()
        # by the identity of messages and generations, which are kept for it
        self._told: dict[tuple[int, int], tuple[Any, int]] = {}
        self._known: dict[int, tuple[Generation, int]] = {}
        # the trainers of each generation
        self._trainers: dict[int, tuple[int, ...]] = {}
        self._member_steps: dict[tuple[int, Hashable], Outcome] = {}
        self._membership_steps: dict[tuple[int, Hashable], Outcome] = {}

    def member(self, number: int) -> MemberState:
        state: MemberState = self.members.values[number]
        return state

    def membership(self, number: int) -> MembershipState:
        state: MembershipState = self.memberships.values[number]
        return state

    def generation(self, number: int) -> Generation:
        generation: Generation = self.generations.values[number]
        return generation

    def told(self, message: Any, i: int = -1) -> int:
        """The number of a message of a machine's command; of a report, as trainer i tells it."""
        found = self._told.get((id(message), i))
        if found is None:
            whole = replace(message, store=("host", i)) if isinstance(message, Report) else message
            found = self._told[id(message), i] = message, self.messages.number(whole)
        return found[1]

    def decided(self, generation: Generation) -> int:
        """The number of a generation of a machine's command."""
        found = self._known.get(id(generation))
        if found is None:
            found = self._known[id(generation)] = generation, self.generations.number(generation)
        return found[1]

    def trainers_of(self, generation: int) -> tuple[int, ...]:
        """The members of a generation, by rank."""
        found = self._trainers.get(generation)
        if found is None:
            members = self.generation(generation).members
            found = self._trainers[generation] = tuple(int(m.trainer[1:]) for m in members)
        return found

    def add_membership(self, outcome: MembershipOutcome) -> Outcome:
        state, commands = outcome
        state = replace(
            state,
            reason="",
            failures_in_row=0,
            failure_chain={},
            newest_round=0,
            newest_step=0,
            newest_row=-1,
            deaths={},
            num_stillborn=0,
        )
        key = tuple(_frozen(getattr(state, f.name)) for f in fields(state))
        told = tuple(c for c in commands if not isinstance(c, membership.Emit))
        return Outcome(self.memberships.number(state, key), told)

    def step_member(self, number: int, event: Any) -> Outcome:
        """Step a member machine by an event, or by a message's number."""
        key = (number, event)
        found = self._member_steps.get(key)
        if found is None:
            event = self.messages.values[event] if isinstance(event, int) else event
            state, commands = member.apply(self.members.values[number], event)
            found = self._member_steps[key] = Outcome(self.members.number(state), commands)
        return found

    def step_membership(self, number: int, event: Any) -> Outcome:
        """Step a membership machine by an event, or by a message's number."""
        key = (number, event)
        found = self._membership_steps.get(key)
        if found is None:
            event = MessageReceived(self.messages.values[event]) if isinstance(event, int) else event
            outcome = membership.apply(self.memberships.values[number], event)
            found = self._membership_steps[key] = self.add_membership(outcome)
        return found


def _frozen(value: object) -> Hashable:
    return tuple(sorted(value.items())) if isinstance(value, Mapping) else value
