"""A local cluster that outlives the attempts made on it, as each of them sees it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from surefoot_actors.cluster.local.cluster import LocalCluster
from surefoot_actors.cluster.ports import TrainerHandle, TrainerSetup

__all__ = ["LentCluster"]


class LentCluster:
    """Implements `ports.Cluster` for one supervisor: closing it ends its trainers, but not the process they are forked from."""

    installs = False

    def __init__(self, cluster: LocalCluster) -> None:
        self.on_notice: Callable[[str, str], None] = lambda trainer, reason: None
        self.on_waiting: Callable[[str], None] = lambda what: None
        self._cluster = cluster
        #: every trainer that was started, gone or not
        self.handles: list[TrainerHandle] = []

    async def start_trainer(self, setup: TrainerSetup) -> TrainerHandle:
        handle = await self._cluster.start_trainer(setup)
        self.handles.append(handle)
        return handle

    async def find_trainers(self) -> list[TrainerHandle]:
        return [handle for handle in await self._cluster.find_trainers() if handle in self.handles]

    async def close(self) -> None:
        await asyncio.gather(*(handle.kill() for handle in self.handles))
