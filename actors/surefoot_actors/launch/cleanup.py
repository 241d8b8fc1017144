"""The entrypoint of a clean-up job: removes what an attempt has left on the cluster, by name, whatever became of its supervisor.

Environment: SUREFOOT_ATTEMPT. Returns when every process is confirmed gone; doing it again changes nothing.
"""

from __future__ import annotations

import asyncio
import os

import ray

from surefoot.names import SUPERVISOR
from surefoot_actors.cluster.ray.ending import end_actor
from surefoot_actors.cluster.ray.journal import RayJournal
from surefoot_actors.cluster.ray.names import NAMESPACE, find_actor, list_roles

__all__ = ["clean_up", "main"]


async def clean_up(attempt: str) -> None:
    """End the supervisor first, since it would start others; then all the rest, those it was just starting too."""
    await _end(attempt, [SUPERVISOR])
    while roles := list_roles(attempt):
        await _end(attempt, roles)
    RayJournal(attempt).forget()


async def _end(attempt: str, roles: list[str]) -> None:
    actors = [find_actor(attempt, role) for role in roles]
    await asyncio.gather(*(end_actor(actor) for actor in actors if actor is not None))


def main() -> None:
    ray.init(address="auto", namespace=NAMESPACE, log_to_driver=False)
    asyncio.run(clean_up(os.environ["SUREFOOT_ATTEMPT"]))


if __name__ == "__main__":
    main()
