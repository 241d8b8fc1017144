"""What the control plane asks for: each is made an event, or done at once where membership has no part in it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import assert_never

from surefoot.events import Command, CommandKind, EventKind
from surefoot.spec import JobState
from surefoot.words import UnknownWord
from surefoot_actors.journal.journal import Journal
from surefoot_actors.protocol.membership.machine import Cancelled, Event, PauseRequested, Resized
from surefoot_actors.protocol.membership.state import MembershipState
from surefoot_actors.supervisor.checkpoints import CheckpointCoordinator
from surefoot_actors.supervisor.fault_injection import Injector
from surefoot_actors.supervisor.status import Status
from surefoot_actors.uplink.ports import Uplink

__all__ = ["Commands"]


class Commands:
    """Two watchers, on the supervisor's event loop."""

    def __init__(
        self,
        uplink: Uplink,
        journal: Journal,
        checkpoints: CheckpointCoordinator,
        injector: Injector,
        status: Status,
        state: Callable[[], MembershipState],
        happen: Callable[[Event], None],
    ) -> None:
        self._uplink, self._journal, self._checkpoints, self._injector = uplink, journal, checkpoints, injector
        self._status, self._state, self._happen = status, state, happen

    async def obey_all(self) -> None:
        """Obey one command after the other, until cancelled."""
        async for command in self._uplink.commands():
            try:
                await self._obey(command)
            except Exception as error:  # noqa: BLE001  one command's edge: the next must be obeyed all the same
                self._uplink.event(EventKind.WARNING, message=f"{command.kind} could not be done: {error!r}")

    async def end_if_disowned(self) -> None:
        """Cancel the attempt once the control plane says that it is none of its."""
        await self._uplink.gone.wait()
        self._happen(Cancelled("the control plane no longer knows this attempt"))

    async def _obey(self, command: Command) -> None:
        match command.kind:
            case CommandKind.CANCEL:
                self._happen(Cancelled("cancelled by request"))
            case CommandKind.RESIZE:
                if command.trainers is not None:
                    await asyncio.to_thread(self._journal.want, command.trainers)
                    self._happen(Resized(command.trainers))
            case CommandKind.CHECKPOINT:
                self._checkpoints.want("asked for")
            case CommandKind.PAUSE:
                self._status.tell(JobState.PAUSING, "to stop at the next step boundary")
                self._happen(PauseRequested())
            case CommandKind.FAULT:
                if command.fault is not None:
                    leave = 1 if command.trainers is None else command.trainers
                    await self._injector.inject(command.fault, self._state(), leave)
            case UnknownWord():
                self._uplink.event(
                    EventKind.WARNING,
                    message=f"the control plane asks for {command.kind!r}, which this version cannot do",
                )
            case _:
                assert_never(command.kind)
