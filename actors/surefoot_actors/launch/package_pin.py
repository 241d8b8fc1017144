"""The actor that keeps the job's package from Ray's garbage collection."""

from __future__ import annotations

import os
from typing import Any

import ray
import ray.actor
import ray.exceptions
import ray.util

from surefoot_actors.cluster.environment import without_secrets

__all__ = ["PackagePin"]


class PackagePin:
    """Carries the package's URI in its runtime environment, so that Ray keeps the package while no trainer lives."""

    def __init__(self) -> None:
        without_secrets(os.environ)

    async def ready(self) -> None:
        """Answer once the runtime environment stands."""

    async def clear_up(self, attempt: str, supervisor: ray.actor.ActorHandle[Any]) -> None:
        """End the supervisor, which has nothing more to do, then remove the attempt's journal, and end.

        In this order: a supervisor that is restarted and finds no journal would begin the run anew.
        """
        from surefoot_actors.cluster.ray.journal import RayJournal

        ray.kill(supervisor, no_restart=True)
        RayJournal(attempt).forget()
        ray.actor.exit_actor()  # type: ignore[no-untyped-call]
