"""Faults that `surefoot chaos` asks for, done for real to a trainer, a node or the supervisor itself."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence

from surefoot.events import EventKind, FaultKind
from surefoot.words import UnknownWord
from surefoot_actors.faults.refused import FaultRefusedError
from surefoot_actors.supervisor.trainer_link import TrainerLink
from surefoot_actors.uplink.ports import Uplink

__all__ = ["Injector"]

# How long the supervisor's own end waits for its last words to be stored.
_LAST_WORDS_S = 5.0


class Injector:
    """Tells each fault before it is done, so that none goes untold."""

    def __init__(self, uplink: Uplink, links: Mapping[str, TrainerLink], die: Callable[[], None] | None) -> None:
        self._uplink, self._links, self._die = uplink, links, die
        # trainers that were hit: what they were computing is not to blame for their end
        self.hit: set[str] = set()

    async def inject(self, fault: FaultKind | UnknownWord, members: Sequence[str]) -> None:
        """Do it to one of the members, by chance. Where it cannot be done a warning says why."""
        try:
            if isinstance(fault, UnknownWord):
                raise FaultRefusedError("this version does not know it")
            if fault is FaultKind.SUPERVISOR:
                await self._end_supervisor()
            else:
                await self._hit(fault, members)
        except FaultRefusedError as error:
            self._uplink.event(EventKind.WARNING, message=f"the fault {fault} was not injected: {error}")

    async def _end_supervisor(self) -> None:
        if self._die is None:
            raise FaultRefusedError("this supervisor is not a process of its own")
        self._uplink.event(EventKind.FAULT, kind=FaultKind.SUPERVISOR, trainer="", node="")
        await self._uplink.flush(_LAST_WORDS_S)
        self._die()

    async def _hit(self, fault: FaultKind, members: Sequence[str]) -> None:
        there = [(t, handle) for t in members if t in self._links and (handle := self._links[t].handle)]
        refusals = [handle.refusal(fault) for _, handle in there]
        possible = [one for one, refused in zip(there, refusals, strict=True) if not refused]
        if not possible:
            raise FaultRefusedError(refusals[0] if refusals else "no trainer is a member at present")
        trainer, handle = random.choice(possible)
        self._uplink.event(EventKind.FAULT, kind=fault, trainer=trainer, node="")
        self.hit.add(trainer)
        try:
            await handle.inject(fault)
        except FaultRefusedError:
            self.hit.discard(trainer)
            raise
