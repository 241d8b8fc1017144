"""How an attempt's actors are named in Ray: one namespace, "attempt/role". Calls ask Ray's control store, and wait for it."""

from __future__ import annotations

from typing import Any

import ray
import ray.util
from ray.actor import ActorHandle

from surefoot.names import name_within
from surefoot_actors.cluster.ray.gcs import retry_until_gcs_answers

__all__ = ["KEEPER", "NAMESPACE", "find_actor", "list_roles"]

NAMESPACE = "surefoot"
# A role that is no trainer's, as the supervisor's is. A trainer's role is its name.
KEEPER = "keeper"


def list_roles(attempt: str) -> list[str]:
    """The roles of the attempt's actors that live or are waiting for a place."""
    prefix = name_within(attempt, "")
    named = retry_until_gcs_answers(lambda: ray.util.list_named_actors(all_namespaces=True))
    ours = [actor["name"] for actor in named if actor["namespace"] == NAMESPACE]
    return sorted(name.removeprefix(prefix) for name in ours if name.startswith(prefix))


def find_actor(attempt: str, role: str) -> ActorHandle[Any] | None:
    """The actor's handle, or None where there is none."""
    try:
        return retry_until_gcs_answers(lambda: ray.get_actor(name_within(attempt, role), namespace=NAMESPACE))
    except ValueError:
        return None
