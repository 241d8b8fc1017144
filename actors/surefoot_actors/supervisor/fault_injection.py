"""Faults that `surefoot chaos` asks for, done for real to a trainer, a node or the supervisor itself."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping

from surefoot.events import EventKind, FaultKind
from surefoot.words import UnknownWord
from surefoot_actors.cluster.ports import TrainerHandle
from surefoot_actors.faults.refused import FaultRefusedError
from surefoot_actors.protocol.membership.state import MembershipState
from surefoot_actors.supervisor.trainer_link import TrainerLink
from surefoot_actors.uplink.ports import Uplink

__all__ = ["Injector"]

# How long the supervisor's own end waits for its last words to be stored.
_LAST_WORDS_S = 5.0


class Injector:
    """Tells each fault before it is done, so that none goes untold."""

    def __init__(self, uplink: Uplink, links: Mapping[str, TrainerLink], die: Callable[[], None] | None) -> None:
        self._uplink, self._links, self._die = uplink, links, die
        # trainers that were hit, known to be lost or not yet: what they were computing is not to blame for their end
        self.hit: set[str] = set()

    async def inject(self, fault: FaultKind | UnknownWord, state: MembershipState, leave: int = 1) -> None:
        """Do it to one of the members, by chance, so that at least `leave` trainers live on that hold the run's state.

        Where it cannot be done a warning says why.
        """
        try:
            if isinstance(fault, UnknownWord):
                raise FaultRefusedError("this version does not know it")
            if fault is FaultKind.SUPERVISOR:
                await self._end_supervisor()
            else:
                await self._hit(fault, state, leave)
        except FaultRefusedError as error:
            message = f"the fault {fault} was not injected: {error}"
            self._uplink.event(EventKind.WARNING, message=message, fault=str(fault))

    async def _end_supervisor(self) -> None:
        if self._die is None:
            raise FaultRefusedError("this supervisor is not a process of its own")
        self._uplink.event(EventKind.FAULT, kind=FaultKind.SUPERVISOR, trainer="", node="")
        await self._uplink.flush(_LAST_WORDS_S)
        self._die()

    async def _hit(self, fault: FaultKind, state: MembershipState, leave: int) -> None:
        there = [self._links[t].handle for t in state.members if t in self._links and t not in self.hit]
        refusals = [(h, h.refusal(fault) or self._spared(fault, h, state, leave)) for h in there if h]
        possible = [handle for handle, refusal in refusals if not refusal]
        if not possible:
            raise FaultRefusedError(
                refusals[0][1] if refusals else "no trainer is a member at present that was not hit"
            )
        handle = random.choice(possible)
        victims = self._victims(fault, handle)
        left = len(self._holders(state) - victims)
        self._uplink.event(EventKind.FAULT, kind=fault, trainer=handle.trainer, node=handle.node, left=left)
        self.hit |= victims
        try:
            await handle.inject(fault)
        except FaultRefusedError:
            self.hit -= victims
            raise

    def _spared(self, fault: FaultKind, handle: TrainerHandle, state: MembershipState, leave: int) -> str:
        """Why it is not done to this trainer, for the sake of the run's state; empty: it may be."""
        holders = self._holders(state)
        left = holders - self._victims(fault, handle)
        if left == holders or len(left) >= leave:
            return ""
        return f"{handle.trainer} is spared: of trainers that hold the run's state {leave} are to live on, and {len(left)} would (--leave)"

    def _holders(self, state: MembershipState) -> set[str]:
        return set(state.holders) - self.hit

    def _victims(self, fault: FaultKind, handle: TrainerHandle) -> set[str]:
        """Whom the fault ends beside whoever it is done to: all that are on its node, for all that is known."""
        if fault is not FaultKind.NODE:
            return {handle.trainer}
        handles = [link.handle for link in self._links.values() if link.handle]
        return {h.trainer for h in handles if h.node in (handle.node, "") or not handle.node}
