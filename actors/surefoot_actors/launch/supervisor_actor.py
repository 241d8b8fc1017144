"""The actors of an attempt. Light to import: what they need is imported inside them, torch in the trainer alone."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import signal
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import ray
import ray.actor
import ray.exceptions
import ray.util
from pydantic import JsonValue

from surefoot.errors import CheckpointError
from surefoot.events import EventKind
from surefoot.names import SUPERVISOR, name_within
from surefoot.node_groups import NodeGroup
from surefoot.output import DEFAULT_MAX_OUTPUT_BYTES
from surefoot.spec import JobSpec, JobState
from surefoot_actors.cluster.environment import without_secrets
from surefoot_actors.cluster.ray.names import KEEPER, find_actor
from surefoot_actors.cluster.ray.trainer_actor import DEFAULT_SERVICE, _node_address
from surefoot_actors.sealed import Sealed
from surefoot_actors.story import BrokenMachineError

if TYPE_CHECKING:
    from surefoot_actors.cluster.ray.cluster import RayCluster
    from surefoot_actors.journal.journal import Journal
    from surefoot_actors.liveness.server import LivenessServer
    from surefoot_actors.uplink.http import HttpUplink

__all__ = ["SupervisorActor", "SupervisorSetup"]

# How long a supervisor whose attempt has ended goes on telling so, while the control plane is away.
LAST_WORD_S = 3600.0
# How long it then waits for the end of trainers that cannot be reached: Ray declares their node dead within a minute.
LINGER_S = 120.0
# How long the last printed lines may take to be stored: what the control plane has not taken by then is lost.
LAST_LINES_S = 30.0
# Before a supervisor that failed is restarted: one that fails at once must not keep the machine busy.
_DIE_AFTER_S = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class SupervisorSetup:
    """All that a supervisor needs, whenever Ray restarts it."""

    url: str
    attempt: str
    # the actor keeps it sealed
    token: str = field(repr=False)
    spec: JobSpec
    package_uri: str | None
    # of all the job's attempts; empty: nowhere
    checkpoints: str = ""
    max_output_bytes: int = DEFAULT_MAX_OUTPUT_BYTES
    service: str = DEFAULT_SERVICE
    # the kinds of nodes that there may be, and how long a trainer waits for one before a dearer one is asked for
    node_groups: Mapping[str, NodeGroup] = field(default_factory=dict)
    node_wait_s: float = 300.0


class SupervisorActor:
    """Owns an attempt. It begins by itself, so that a restart needs nobody, and ends itself when all is told and gone."""

    def __init__(self, setup: SupervisorSetup) -> None:
        without_secrets(os.environ)
        # No attribute holds the token: whoever may use the cluster can have this actor send back what it holds.
        self._token, self._setup = Sealed(setup.token), replace(setup, token="")
        self._running = asyncio.Event()
        self._task = asyncio.get_running_loop().create_task(self._live_or_die(), name="supervisor")

    async def running(self) -> None:
        """Answer once it runs."""
        await self._running.wait()

    async def _live_or_die(self) -> None:
        """End the process with whatever ends its work, so that Ray restarts it: half a supervisor is worse than none."""
        try:
            await self._live()
        except BaseException:  # noqa: BLE001  the process's edge
            traceback.print_exc()
            await asyncio.sleep(_DIE_AFTER_S)
            os._exit(1)

    async def _live(self) -> None:
        from surefoot_actors.cluster.ray.cluster import RayCluster
        from surefoot_actors.cluster.ray.journal import RayJournal
        from surefoot_actors.logs.capture import Capture, Printing
        from surefoot_actors.logs.relay import LogRelay
        from surefoot_actors.uplink.http import HttpUplink

        setup = self._setup
        source = name_within(setup.attempt, f"{SUPERVISOR}-{secrets.token_hex(4)}")
        journal = RayJournal(setup.attempt)
        uplink = HttpUplink(setup.url, setup.attempt, self._token, source, journal=journal)
        liveness = await _liveness_server(setup.attempt, journal)
        relay = LogRelay(uplink)
        liveness.on_logs = relay.serve
        relay.start()
        capture = Capture(Printing(setup.attempt, SUPERVISOR, liveness.address), liveness.sealed)
        capture.start()
        cluster = RayCluster(
            setup.attempt,
            liveness,
            package_uri=setup.package_uri,
            service=setup.service,
            groups=setup.node_groups,
            node_wait_s=setup.node_wait_s,
        )
        await uplink.start()
        self._running.set()
        await self._supervise(uplink, liveness, journal, cluster)
        await uplink.flush(LAST_WORD_S)
        await cluster.settle(LINGER_S)
        capture.end()
        await relay.settle(LAST_LINES_S)
        await relay.close()
        await uplink.close()
        await liveness.close()
        await self._end()

    async def _end(self) -> None:
        """Have the keeper end this actor; where there is no keeper, only the journal stays."""
        me = ray.get_runtime_context().current_actor
        keeper = await asyncio.to_thread(find_actor, self._setup.attempt, KEEPER)
        if keeper is not None:
            with contextlib.suppress(ray.exceptions.RayError):
                await keeper.clear_up.remote(self._setup.attempt, me)
        ray.kill(me, no_restart=True)

    async def _supervise(
        self, uplink: HttpUplink, liveness: LivenessServer, journal: Journal, cluster: RayCluster
    ) -> None:
        """Run the attempt, or what an earlier supervisor left of it. Afterwards every trainer is gone."""
        from surefoot_actors.supervisor.supervisor import Supervisor

        setup, spec = self._setup, self._setup.spec
        finished = await asyncio.to_thread(journal.finished)
        if finished not in (None, JobState.SUCCEEDED):
            uplink.event(EventKind.STATE, state=finished, reason="it had ended when the supervisor was restarted")
            await cluster.close()
            return
        faults = tuple(spec.env.get("SUREFOOT_FAULTS", "").split())
        try:
            supervisor = Supervisor(
                spec,
                setup.attempt,
                cluster,
                uplink,
                journal,
                liveness,
                faults,
                checkpoints=setup.checkpoints,
                max_output_bytes=setup.max_output_bytes,
                die=_die,
                logs=True,
            )
            await supervisor.run()
        except Exception as error:  # the actor's edge: a fault of ours fails the job rather than repeat itself
            if await asyncio.to_thread(journal.finished) is not None:
                raise  # the outcome stands, and the next supervisor tells it
            await asyncio.to_thread(journal.finish, JobState.FAILED)
            uplink.event(EventKind.FAILED, traceback=traceback.format_exc(), **_told(error))
            await cluster.close()


def _told(error: Exception) -> dict[str, JsonValue]:
    """What people are told of the error that ended a supervisor."""
    if isinstance(error, CheckpointError):
        return {"reason": str(error)}  # a place for checkpoints that cannot be opened
    if isinstance(error, BrokenMachineError):
        return {"reason": str(error), "story": list(error.story)}
    return {"reason": f"Surefoot's supervisor failed, which is a fault of Surefoot: {error!r}"}


async def _liveness_server(attempt: str, journal: Journal) -> LivenessServer:
    """Listen where the supervisor before this one did, if possible: watchdogs keep knocking there, however frozen their trainers."""
    from surefoot_actors.liveness.server import LivenessServer

    here = _node_address()
    before = await asyncio.to_thread(journal.listening)
    host, port, secret = before or ("", 0, "")
    liveness = (
        LivenessServer(attempt, here, port=port, secret=secret) if host == here else LivenessServer(attempt, here)
    )
    await liveness.start()
    await asyncio.to_thread(journal.listen, *liveness.address, liveness.sealed.reveal())
    return liveness


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)
