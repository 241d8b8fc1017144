"""The supervisor's shell of `run.once`: what is to be kept is in the journal before anybody is told."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection

from surefoot_actors.journal.journal import Journal
from surefoot_actors.protocol import once
from surefoot_actors.protocol.messages import OnceAsked, OnceDone, OnceTold, ToTrainer
from surefoot_actors.protocol.once import Gone, Keep, Kept, OnceState, Tell

__all__ = ["OnceKeeper"]


class OnceKeeper:
    """Used on the supervisor's event loop, one call at a time."""

    def __init__(self, journal: Journal, send: Callable[[str, ToTrainer], None]) -> None:
        self._journal, self._send = journal, send
        self._state = OnceState()
        self._incarnation = 0

    async def begin(self, incarnation: int, found: Collection[str]) -> None:
        """Take over from the supervisor before this one, whose trainers `found` still live."""
        self._incarnation = incarnation
        done, running = await asyncio.to_thread(self._journal.onced)
        self._state = OnceState(kept=Kept(done=frozenset(done), running=running))
        for trainer in set(running.values()).difference(found):
            await self.hear(Gone(trainer))

    async def hear(self, event: OnceAsked | OnceDone | Gone) -> None:
        """Answer what a trainer asks, note what it has done, or that it is gone."""
        self._state, commands = once.apply(self._state, event)
        for command in commands:
            match command:
                case Keep(kept=kept):
                    await asyncio.to_thread(self._journal.once, sorted(kept.done), dict(kept.running))
                case Tell(trainer=trainer, key=key, done=done):
                    self._send(trainer, OnceTold(incarnation=self._incarnation, key=key, done=done))
