"""Faults that `surefoot chaos` asks for: whom they may hit, so that the run's state lives on, and what is told of it."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from surefoot.events import EventKind, FaultKind
from surefoot_actors.protocol.membership.state import MembershipState
from surefoot_actors.protocol.messages import Generation, Member
from surefoot_actors.supervisor.fault_injection import Injector
from surefoot_actors.uplink.memory import MemoryUplink

pytestmark = pytest.mark.unit

Kinds = st.sampled_from([FaultKind.TRAINER, FaultKind.FREEZE, FaultKind.NODE])


class Handle:
    """A trainer, of which it is noted what is done to it."""

    def __init__(self, trainer: str, node: str, done: list[str]) -> None:
        self.trainer, self.node, self._done = trainer, node, done

    def refusal(self, fault: FaultKind) -> str:
        return ""

    async def inject(self, fault: FaultKind) -> None:
        self._done.append(self.trainer)


class World:
    """So many members, on their nodes."""

    def __init__(self, nodes: list[str], **more: Any) -> None:
        self.nodes = {f"t{n}": node for n, node in enumerate(nodes)}
        self.done: list[str] = []
        self.uplink = MemoryUplink()
        links = {t: SimpleNamespace(handle=Handle(t, node, self.done)) for t, node in self.nodes.items()}
        self.injector = Injector(self.uplink, links, None)  # type: ignore[arg-type]
        roles: dict[str, Any] = {t: "joining" if t in more.get("joining", ()) else "settled" for t in links}
        members = tuple(Member(trainer=t, own=0, role=role) for t, role in roles.items())
        generation = Generation(number=1, nonce="", start=0, members=members, store=("", 0))
        self.state = MembershipState(
            num_sub_tasks=4, target=len(nodes), min_trainers=1, generation=generation,
            leaving=more.get("leaving", {}), suspected=frozenset(more.get("suspected", ())),
            newest_row=more.get("newest_row", -1),
        )  # fmt: skip

    async def hit(self, fault: FaultKind, leave: int = 1) -> None:
        await self.injector.inject(fault, self.state, leave)

    @property
    def told(self) -> list[tuple[EventKind, Any]]:
        return [(event.kind, event.data.get("left")) for event in self.uplink.events]  # type: ignore[misc]

    @property
    def warned(self) -> str:
        return str(self.uplink.events[-1].data["message"])


async def test_the_last_that_holds_the_state_is_spared_unless_that_is_wanted() -> None:
    world = World(["a", "b"])
    await world.hit(FaultKind.TRAINER)
    [first] = world.done
    await world.hit(FaultKind.TRAINER)  # before it is known that the first is lost
    assert world.done == [first]
    assert world.told == [(EventKind.FAULT, 1), (EventKind.WARNING, None)]
    assert "is spared" in world.warned
    assert "--leave" in world.warned
    assert world.uplink.events[-1].data["fault"] == "trainer"
    await world.hit(FaultKind.TRAINER, leave=0)
    assert sorted(world.done) == ["t0", "t1"]
    assert world.told[-1] == (EventKind.FAULT, 0)


@pytest.mark.parametrize(
    "more",
    [{"joining": ["t1"]}, {"leaving": {"t1": "notice"}}, {"suspected": ["t1"]}],
    ids=lambda more: next(iter(more)),
)
async def test_only_who_holds_the_state_and_stays_counts(more: dict[str, Any]) -> None:
    world = World(["a", "b"], **more)
    for _ in range(20):
        await world.hit(FaultKind.TRAINER)
    assert set(world.done) <= {"t1"}
    world = World(["a", "b"], joining=["t1"], newest_row=0)  # a step is done: it has it by now
    while not world.done:
        await world.hit(FaultKind.TRAINER)


@given(
    nodes=st.lists(st.sampled_from(["a", "b", "c", ""]), min_size=1, max_size=5),
    faults=st.lists(Kinds, max_size=8), leave=st.integers(0, 3),
)  # fmt: skip
def test_whatever_is_asked_for_enough_live_on(nodes: list[str], faults: list[FaultKind], leave: int) -> None:
    """A node's end is that of all that are on it; of one that is not known anybody may be there."""
    world, dead = World(nodes), set[str]()
    for fault in faults:
        before = len(world.done)
        asyncio.run(world.hit(fault, leave))
        for trainer in world.done[before:]:
            node = world.nodes[trainer]
            beside = {
                t for t, other in world.nodes.items() if fault is FaultKind.NODE and (other in (node, "") or not node)
            }
            dead |= {trainer} | beside
    assert len(world.nodes) - len(dead) >= min(leave, len(world.nodes))
