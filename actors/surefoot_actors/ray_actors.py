"""The actors of an attempt. Light to import: what they need is imported inside them, torch in the trainer alone."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import os
import secrets
import threading
import time
import traceback
from dataclasses import dataclass
from typing import TYPE_CHECKING

import ray
import ray.actor
import ray.exceptions
import ray.util

from surefoot.events import EventKind
from surefoot.spec import JobSpec, JobState
from surefoot_actors.cluster import Inbox, TrainerService, TrainerSetup
from surefoot_actors.protocol.messages import ToTrainer
from surefoot_actors.pulse_trainer import Helper
from surefoot_actors.ray_names import KEEPER, find_actor

if TYPE_CHECKING:
    from surefoot_actors.http_uplink import HttpUplink
    from surefoot_actors.pulse import PulseServer

__all__ = ["DEFAULT_SERVICE", "KeeperActor", "Orders", "SupervisorActor", "TrainerActor"]

DEFAULT_SERVICE = "surefoot_actors.trainer:TrainerProcess"
# A trainer that no supervisor has asked for so long ends itself.
ORPHANED_S = 600.0
# How long a supervisor whose attempt has ended goes on telling so, while the control plane is away.
LAST_WORD_S = 3600.0


class TrainerActor:
    """A trainer process: serves its TrainerService by Ray calls. "control" is never behind a waiting "collect"."""

    def __init__(self, setup: TrainerSetup, service: str) -> None:
        os.environ["SUREFOOT_HOST"] = _node_address()
        self._helper = Helper(setup)
        self._helper.start()
        self._asked = time.monotonic()
        threading.Thread(target=self._end_when_orphaned, name="orphan-guard", daemon=True).start()
        module, _, name = service.partition(":")
        self._service: TrainerService = getattr(importlib.import_module(module), name)(setup)

    @ray.method(concurrency_group="control")
    def start(self) -> None:
        self._service.start()

    @ray.method(concurrency_group="control")
    def deliver(self, message: ToTrainer) -> None:
        self._service.deliver(message)

    @ray.method(concurrency_group="collect")
    def collect(self, after: int, rows_below: int, wait_s: float) -> Inbox:
        self._asked = time.monotonic()
        return self._service.collect(after, rows_below, wait_s)

    @ray.method(concurrency_group="control")
    def pulse(self, address: tuple[str, int], secret: str) -> None:
        """Beat to another server: a restarted supervisor's."""
        self._helper.tell(address, secret)

    def _end_when_orphaned(self) -> None:
        wait = threading.Event()
        while (left := self._asked + ORPHANED_S - time.monotonic()) > 0:
            wait.wait(left)
        os._exit(0)


def _node_address() -> str:
    address: str = ray.util.get_node_ip_address()  # type: ignore[no-untyped-call]
    return address


class KeeperActor:
    """Carries the package's URI in its runtime environment, so that Ray keeps the package while no trainer lives."""

    async def ready(self) -> None:
        """Answer once the runtime environment stands."""

    async def clear_up(self, attempt: str, supervisor: ray.actor.ActorHandle[SupervisorActor]) -> None:
        """End the supervisor, which has nothing more to do, then remove the attempt's journal, and end.

        In this order: a supervisor that is restarted and finds no journal would begin the run anew.
        """
        from surefoot_actors.journal import RayJournal

        ray.kill(supervisor, no_restart=True)
        RayJournal(attempt).forget()
        ray.actor.exit_actor()  # type: ignore[no-untyped-call]


@dataclass(frozen=True, slots=True, kw_only=True)
class Orders:
    """All that a supervisor needs, whenever Ray restarts it."""

    url: str
    attempt: str
    token: str
    spec: JobSpec
    package_uri: str | None
    # of all the job's attempts; empty: nowhere
    checkpoints: str = ""
    service: str = DEFAULT_SERVICE


class SupervisorActor:
    """Owns an attempt. It begins by itself, so that a restart needs nobody, and ends itself when all is told and gone."""

    def __init__(self, orders: Orders) -> None:
        self._orders = orders
        self._running = asyncio.Event()
        self._task = asyncio.get_running_loop().create_task(self._live(), name="supervisor")

    async def running(self) -> None:
        """Answer once it runs."""
        await self._running.wait()

    async def _live(self) -> None:
        from surefoot_actors.http_uplink import HttpUplink
        from surefoot_actors.pulse import PulseServer

        orders = self._orders
        source = f"{orders.attempt}/supervisor-{secrets.token_hex(4)}"
        uplink = HttpUplink(orders.url, orders.attempt, orders.token, source)
        pulse = PulseServer(orders.attempt, _node_address())
        await uplink.start()
        await pulse.start()
        self._running.set()
        await self._supervise(uplink, pulse)
        await uplink.flush(LAST_WORD_S)
        await uplink.close()
        await pulse.close()
        await self._end()

    async def _end(self) -> None:
        """Have the keeper end this actor; where there is no keeper, only the journal stays."""
        me = ray.get_runtime_context().current_actor
        keeper = find_actor(self._orders.attempt, KEEPER)
        if keeper is not None:
            with contextlib.suppress(ray.exceptions.RayError):
                await keeper.clear_up.remote(self._orders.attempt, me)
        ray.kill(me, no_restart=True)

    async def _supervise(self, uplink: HttpUplink, pulse: PulseServer) -> None:
        """Run the attempt, or what an earlier supervisor left of it. Afterwards every trainer is gone."""
        from surefoot_actors.journal import RayJournal
        from surefoot_actors.ray_cluster import RayCluster
        from surefoot_actors.supervisor import Supervisor

        orders, spec = self._orders, self._orders.spec
        journal = RayJournal(orders.attempt)
        cluster = RayCluster(orders.attempt, pulse, package_uri=orders.package_uri, service=orders.service)
        finished = journal.finished()
        if finished not in (None, JobState.SUCCEEDED):
            uplink.event(EventKind.STATE, state=finished, reason="it had ended when the supervisor was restarted")
            await cluster.close()
            return
        faults = tuple(spec.env.get("SUREFOOT_FAULTS", "").split())
        try:
            await Supervisor(spec, orders.attempt, cluster, uplink, journal, pulse, faults).run()
        except Exception as error:  # noqa: BLE001 (the actor's edge: a fault of ours fails the job rather than repeat itself)
            journal.finish(JobState.FAILED)
            reason = f"Surefoot's supervisor failed, which is a fault of Surefoot: {error!r}"
            uplink.event(EventKind.FAILED, reason=reason, traceback=traceback.format_exc())
            await cluster.close()
