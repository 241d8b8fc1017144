"""How actors end for certain: Ray calls an actor dead as soon as it is asked to kill it, its process may live on for seconds."""

from __future__ import annotations

import asyncio
import os
import select
import signal
from dataclasses import dataclass
from typing import Any

import ray
from ray._private import state as ray_state
from ray.actor import ActorHandle
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from surefoot_actors.cluster.ray.gcs import retry_until_gcs_answers

__all__ = ["Place", "confirm_gone", "draining_nodes", "end_actor", "place_of"]

# Ray itself kills a process that does not end within 5 s of being asked; after that we do.
_RAY_KILLS_MS = 6000


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where an actor's process is, as far as Ray's control store knows."""

    # DEPENDENCIES_UNREADY, PENDING_CREATION, ALIVE, RESTARTING, DEAD
    state: str
    # 0: it never had a process
    pid: int
    node: str


def place_of(actor: ActorHandle[Any]) -> Place | None:
    """Ask the control store, and wait for it; None where it knows nothing of the actor.

    By Ray's private module: the public one asks the dashboard, which need not be there.
    """
    found = retry_until_gcs_answers(lambda: ray_state.actors(actor._actor_id.hex()))
    if not found:
        return None
    return Place(state=found["State"], pid=found["Pid"], node=found["Address"]["NodeID"])


def draining_nodes() -> set[str]:
    """The ids of nodes that are being drained: `ray drain-node`, an autoscaler, a preemption. Asks the control store, and waits for it."""
    return set(retry_until_gcs_answers(ray_state.state.get_draining_nodes))


def end_process(pid: int) -> None:
    """Wait for a worker process's end, and bring it about if it does not come. Runs on the process's node."""
    try:
        pidfd = os.pidfd_open(pid)
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            ours = file.read().startswith(b"ray::")
    except (ProcessLookupError, FileNotFoundError):
        return
    if ours:  # and no process of somebody else that has the number by now
        poller = select.poll()
        poller.register(pidfd, select.POLLIN)
        if not poller.poll(_RAY_KILLS_MS):
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            poller.poll()
    os.close(pidfd)


async def confirm_gone(place: Place | None) -> None:
    """Return when the process is gone, or its node is. A node that cannot be reached is declared dead by Ray after a while."""
    if place is None or not place.pid:
        return
    strategy = NodeAffinitySchedulingStrategy(node_id=place.node, soft=False)
    work = ray.remote(num_cpus=0, max_retries=3)(end_process)
    try:
        await work.options(scheduling_strategy=strategy, name="surefoot-end").remote(place.pid)
    except RayError:
        pass  # the node is dead, and with it the process


async def end_actor(actor: ActorHandle[Any]) -> None:
    """Kill an actor for good and return when its process is gone."""
    place = await asyncio.to_thread(place_of, actor)
    ray.kill(actor, no_restart=True)
    await confirm_gone(place)
