"""All trainers of an attempt, as the supervisor holds them: started or adopted, told, dismissed, ended."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from surefoot.events import EventKind
from surefoot_actors.cluster.ports import Cluster, TrainerHandle, TrainerSetup
from surefoot_actors.protocol.membership.machine import Started, StartTrainer
from surefoot_actors.protocol.messages import End, ToTrainer
from surefoot_actors.protocol.once import Gone
from surefoot_actors.supervisor.data_news import DataNews
from surefoot_actors.supervisor.ledger_intake import LedgerIntake
from surefoot_actors.supervisor.secrets import SecretKeeper
from surefoot_actors.supervisor.trainer_link import TrainerLink
from surefoot_actors.tasks import Tasks

__all__ = ["Trainers"]

# How long a trainer that was told to end may take to unwind the user's code.
END_GRACE_S = 3.0


class Trainers:
    """Used on the supervisor's event loop."""

    def __init__(
        self,
        cluster: Cluster,
        rows: LedgerIntake,
        events: asyncio.Queue[Any],
        tell: Callable[..., None],
        secrets: SecretKeeper,
    ) -> None:
        self._cluster, self._rows, self._events, self._tell, self._secrets = cluster, rows, events, tell, secrets
        # those that are neither told to end nor dismissed
        self.links: dict[str, TrainerLink] = {}
        self.news = DataNews(tell)
        self._ending = Tasks("end")
        # done once the outcome is recorded: from then on no message needs to have an effect
        self.finishing: asyncio.Future[None]

    def open(self) -> None:
        self.finishing = asyncio.get_running_loop().create_future()

    def start(self, command: StartTrainer, setup: TrainerSetup) -> None:
        self._attend(command.trainer, self._started(command, setup))

    def adopt(self, handle: TrainerHandle) -> None:
        """Take over one that an earlier supervisor started."""
        self._attend(handle.trainer, _adopted(handle))
        self._secrets.give_later(handle)

    def _attend(self, trainer: str, start: Awaitable[TrainerHandle]) -> None:
        link = self.links[trainer] = TrainerLink(trainer, start, self._events, self._rows, self.finishing, self.news)
        link.begin()

    async def _started(self, command: StartTrainer, setup: TrainerSetup) -> TrainerHandle:
        await asyncio.sleep(command.after_s)
        if setup.spec.pip and self._cluster.installs:
            self._tell(EventKind.INSTALLING, trainer=command.trainer, requirements=list(setup.spec.pip))
        handle = await self._cluster.start_trainer(setup)
        try:
            await self._secrets.give(handle)
        except asyncio.CancelledError:
            await handle.kill()
            raise
        self._events.put_nowait(Started(command.trainer))
        return handle

    def send(self, trainer: str, message: ToTrainer) -> None:
        """Deliver it, unless the trainer is on its way out; one that is told to end is."""
        link = self.links.get(trainer)
        if link is None:
            return
        link.send(message)
        if isinstance(message, End):
            del self.links[trainer]
            self._ending.spawn(self._end(link, trainer, END_GRACE_S), name=f"end-{trainer}")

    def dismiss(self, trainer: str) -> None:
        """Fence: end the process whatever it does, without waiting for it here."""
        link = self.links.pop(trainer, None)
        if link is not None:
            self._ending.spawn(self._end(link, trainer, 0.0), name=f"kill-{trainer}")

    async def _end(self, link: TrainerLink, trainer: str, grace_s: float) -> None:
        await link.end(grace_s)
        self._events.put_nowait(Gone(trainer))

    async def end_all(self) -> None:
        """Return when all are gone, those too that are on their way out."""
        ends = [link.end(0.0) for link in self.links.values()]
        self.links.clear()
        # one that could not be ended here is ended, or told, by the cluster's close
        await asyncio.gather(*ends, return_exceptions=True)
        await self._ending.settle()
        self._secrets.close()


async def _adopted(handle: TrainerHandle) -> TrainerHandle:
    return handle
