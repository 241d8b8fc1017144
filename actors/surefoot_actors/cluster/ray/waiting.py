"""Trainers that wait for a node: how long, when a dearer group is to be asked for, and what people are told of it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from surefoot_actors.cluster.ray.demand import Demand, read_demand
from surefoot_actors.process_log import log

__all__ = ["Entry", "WaitingList", "came_after_all", "sentence", "to_give_up"]

POLL_S = 2.0


@dataclass(slots=True, kw_only=True)
class Entry:
    """A trainer that was asked for."""

    # whether there is another group to ask
    has_choice: bool
    # groups that it was waiting for before, and that are not asked now
    left_out: frozenset[str] = frozenset()
    # what it takes of a node, by Ray's names
    needs: Mapping[str, float] = field(default_factory=dict)
    since: float = field(default_factory=time.monotonic)
    # set when it is to be asked for again: in the next group, or anew in all of them
    over: asyncio.Event = field(default_factory=asyncio.Event)
    anew: bool = False


def to_give_up(entries: Mapping[str, Entry], demand: Demand, now: float, wait_s: float) -> list[str]:
    """Return who has waited long enough for a node, and has another group to ask."""
    return [
        trainer
        for trainer, entry in entries.items()
        if trainer in demand.waiting and entry.has_choice and now - entry.since >= wait_s
    ]


def came_after_all(entries: Mapping[str, Entry], demand: Demand) -> list[str]:
    """Return who still waits while a node of a group that is not asked any more is there, and has room.

    As many as there is room for: whoever is asked for anew waits for the cheapest group once more.
    """
    free = {group: [dict(node) for node in nodes] for group, nodes in demand.free.items()}

    def takes(entry: Entry) -> bool:
        for node in (node for group in entry.left_out for node in free.get(group, ())):
            if all(node.get(name, 0.0) >= amount for name, amount in entry.needs.items()):
                node.update({name: node.get(name, 0.0) - amount for name, amount in entry.needs.items()})
                return True
        return False

    return [
        trainer
        for trainer, entry in entries.items()
        if trainer in demand.waiting and not entry.over.is_set() and takes(entry)
    ]


def sentence(trainers: Iterable[str], demand: Demand) -> str:
    """Say who waits for a node, and what is done about it; empty: nobody waits."""
    waiting = demand.waiting & frozenset(trainers)
    if not waiting:
        return ""
    parts = [f"{len(waiting)} trainer{' waits' if len(waiting) == 1 else 's wait'} for a node"]
    if demand.coming:
        added = " and ".join(f"{count} of {group}" for group, count in sorted(demand.coming.items()))
        parts.append(f"the autoscaler has asked for {added}, not there yet")
    hopeless = waiting & demand.hopeless
    if hopeless:
        whom = "it" if len(waiting) == 1 else "them" if hopeless == waiting else f"{len(hopeless)} of them"
        parts.append(f"for {whom} no group may have another")
    parts += [f"one of {group} could not be had: {reason}" for group, reason in sorted(demand.failed.items())]
    return "; ".join(parts)


class WaitingList:
    """Looks at the control store while anybody waits. Used on one event loop."""

    def __init__(self, wait_s: float, tell: Callable[[str], None]) -> None:
        """`wait_s`: how long for a group before another is tried. `tell`: the sentence, whenever it changes; empty: nobody waits."""
        self._wait_s, self._tell = wait_s, tell
        self._entries: dict[str, Entry] = {}
        self._said = ""

    @contextmanager
    def entered(self, trainer: str, entry: Entry) -> Iterator[None]:
        """Have the trainer waited for in the block."""
        self._entries[trainer] = entry
        try:
            yield
        finally:
            del self._entries[trainer]

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            await asyncio.sleep(POLL_S)
            try:
                await self._look()
            except Exception:  # noqa: BLE001  the loop's edge: nobody else would ever look again, and who waits would wait without end
                log.exception("waiting_not_looked_at")

    async def _look(self) -> None:
        if self._entries:
            self.hear(await asyncio.to_thread(read_demand, tuple(self._entries)), time.monotonic())
        elif self._said:
            self._say("")

    def hear(self, demand: Demand, now: float) -> None:
        """Act on what the control store says."""
        self._say(sentence(self._entries, demand))
        for trainer in came_after_all(self._entries, demand):
            self._entries[trainer].anew = True
            self._entries[trainer].over.set()
        for trainer in to_give_up(self._entries, demand, now, self._wait_s):
            self._entries[trainer].over.set()

    def _say(self, text: str) -> None:
        if text != self._said:
            self._said = text
            self._tell(text)
