"""The supervisor's dealings with one trainer: delivers in order, collects, and tells of its loss."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable
from dataclasses import dataclass
from typing import Any

from surefoot_actors.cluster.ports import SetupFailedError, TrainerGoneError, TrainerHandle
from surefoot_actors.protocol.death_cause import DeathCause
from surefoot_actors.protocol.membership.machine import Lost, MessageReceived
from surefoot_actors.protocol.messages import DataTold, Ended, Raised, ToTrainer
from surefoot_actors.supervisor.data_news import DataNews
from surefoot_actors.supervisor.ledger_intake import LedgerIntake

__all__ = ["Handled", "TrainerLink"]

# How often a trainer's ledger rows are fetched.
COLLECT_S = 0.3


@dataclass(frozen=True, slots=True)
class Handled:
    """Everything queued before this has been performed."""

    done: asyncio.Future[None]


class TrainerLink:
    """The supervisor's dealings with one trainer: delivers in order, collects, and tells of its loss."""

    def __init__(
        self,
        trainer: str,
        start: Awaitable[TrainerHandle],
        events: asyncio.Queue[Any],
        rows: LedgerIntake,
        finishing: asyncio.Future[None],
        news: DataNews,
    ) -> None:
        self._trainer, self._start, self._events, self._rows = trainer, start, events, rows
        self._finishing, self._news = finishing, news
        self._outgoing: asyncio.Queue[ToTrainer] = asyncio.Queue()
        self._handle: TrainerHandle | None = None
        self._gone = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def begin(self) -> None:
        self._task = asyncio.create_task(self._attend(), name=f"attend-{self._trainer}")

    @property
    def handle(self) -> TrainerHandle | None:
        """None until it has started."""
        return self._handle

    def send(self, message: ToTrainer) -> None:
        self._outgoing.put_nowait(message)

    async def end(self, grace_s: float) -> None:
        """Let it end by itself for `grace_s`, then kill it; returns when it is gone and nothing of it is left."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(grace_s):
                await self._gone.wait()
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})
        if self._handle is not None:
            await self._handle.kill()

    async def _attend(self) -> None:
        try:
            self._handle = await self._start
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._deliver(self._handle))
                tasks.create_task(self._collect(self._handle))
        except* TrainerGoneError as group:
            first = _first(group)
            if isinstance(first, SetupFailedError) and first.requirements:
                self._tell_refused(first.requirements)
            else:
                self._tell_lost(str(first), first.cause if isinstance(first, TrainerGoneError) else DeathCause.PROCESS)
        except* Exception as group:  # noqa: BLE001  the task's edge: a trainer that nobody attends is a lost one
            first = _first(group)
            self._tell_lost(f"it could not be attended: {first!r}", story=getattr(first, "story", ()))

    def _tell_lost(self, reason: str, cause: DeathCause = DeathCause.PROCESS, story: tuple[str, ...] = ()) -> None:
        self._gone.set()
        self._events.put_nowait(Lost(self._trainer, reason, cause=cause, story=story))

    def _tell_refused(self, said: str) -> None:
        """The job's requirements cannot be installed: as if its code had raised that, before its first line."""
        self._gone.set()
        message = f"pip could not install the job's requirements:\n{said}"
        told = Raised(trainer=self._trainer, kind="RequirementsError", message=message, traceback=said, alone=True)
        self._events.put_nowait(MessageReceived(told))

    async def _deliver(self, handle: TrainerHandle) -> None:
        while True:
            await handle.deliver(await self._outgoing.get())

    async def _collect(self, handle: TrainerHandle) -> None:
        after = 0
        while True:
            inbox = await handle.collect(after, self._rows.acknowledged_below, COLLECT_S)
            self._rows.take(inbox.rows)
            for n, message in inbox.messages:
                if n > after:
                    after = n
                    if isinstance(message, Ended):
                        self._gone.set()
                    elif isinstance(message, DataTold):
                        self._news.hear(message)
                        continue
                    self._events.put_nowait(MessageReceived(message))
            if inbox.messages:
                # acknowledged by the next call, so only when it has had its effect: this process may end at any line
                handled = Handled(asyncio.get_running_loop().create_future())
                self._events.put_nowait(handled)
                await asyncio.wait({handled.done, self._finishing}, return_when=asyncio.FIRST_COMPLETED)


def _first(group: BaseException) -> BaseException:
    while isinstance(group, BaseExceptionGroup):
        group = group.exceptions[0]
    return group
