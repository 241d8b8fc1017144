"""Who waits for a node, and what Ray's autoscaler (v2) does about it: read from the control store, where the autoscaler publishes it.

Ray's REST says none of it. A trainer is found again in it by a label selector that names it and that every node meets.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from surefoot_actors.cluster.environment import KIND_LABELS
from surefoot_actors.cluster.ray.gcs import retry_until_gcs_answers

__all__ = ["Demand", "mark", "parse", "read_demand"]

# no node has this label, and so every node meets "not this value"
_ASKED_FOR = "surefoot.dev/asked-for"
_TIMEOUT_S = 10.0
# Ray's RUNNING and IDLE: neither dead nor draining
_USABLE = (1, 3)
_LONGEST_REASON = 300


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """What the control store says at one moment."""

    # names of trainers that have no node, by `mark`
    waiting: frozenset[str] = frozenset()
    # those of them for which the autoscaler may add no node
    hopeless: frozenset[str] = frozenset()
    # by group: nodes that were asked for and are not there yet
    coming: Mapping[str, int] = field(default_factory=dict)
    # by group: why the last one that was asked for could not be had
    failed: Mapping[str, str] = field(default_factory=dict)
    # by group: what is free of each node that is there, by Ray's names of resources
    free: Mapping[str, tuple[Mapping[str, float], ...]] = field(default_factory=dict)


def mark(trainer: str) -> Mapping[str, str]:
    """Return the selector that names a trainer ("JOB-2/t5") in what the control store says of demand."""
    return {_ASKED_FOR: f"!{_value(trainer)}"}


def _value(trainer: str) -> str:
    """A label's value is short, and ends and begins with a letter or a number."""
    return trainer.replace("/", ".")[-60:].lstrip(".-")


def read_demand(trainers: Iterable[str]) -> Demand:
    """Ask the control store about these trainers, and wait for it."""
    return parse(retry_until_gcs_answers(_ask), trainers)


def _ask() -> Any:
    from ray.core.generated import autoscaler_pb2
    from ray.experimental.internal_kv import internal_kv_get_gcs_client

    reply = autoscaler_pb2.GetClusterStatusReply()  # type: ignore[attr-defined]
    client = internal_kv_get_gcs_client()  # type: ignore[no-untyped-call]
    reply.ParseFromString(client.get_cluster_status(timeout_s=_TIMEOUT_S))
    return reply


def parse(reply: Any, trainers: Iterable[str]) -> Demand:
    """Read a `GetClusterStatusReply`. What others wait for is passed over."""
    names = {_value(trainer): trainer for trainer in trainers}
    scaling = reply.autoscaling_state
    coming: dict[str, int] = {}
    for group, count in (
        *((asked.ray_node_type_name, asked.count) for asked in scaling.pending_instance_requests),
        *((node.ray_node_type_name, 1) for node in scaling.pending_instances),
    ):
        coming[group] = coming.get(group, 0) + count
    waiting = _marked((one.request for one in reply.cluster_resource_state.pending_resource_requests), names)
    return Demand(
        waiting=waiting,
        hopeless=waiting & _marked(scaling.infeasible_resource_requests, names),
        coming=coming,
        failed={one.ray_node_type_name: one.reason[:_LONGEST_REASON] for one in scaling.failed_instance_requests},
        free=_free(reply.cluster_resource_state.node_states),
    )


def _free(nodes: Iterable[Any]) -> Mapping[str, tuple[Mapping[str, float], ...]]:
    found: dict[str, tuple[Mapping[str, float], ...]] = {}
    for node in nodes:
        group = node.labels.get(KIND_LABELS["group"], "")
        if node.status in _USABLE and group:
            found[group] = (*found.get(group, ()), dict(node.available_resources))
    return found


def _marked(requests: Iterable[Any], names: Mapping[str, str]) -> frozenset[str]:
    values = (
        value
        for request in requests
        for selector in request.label_selectors
        for constraint in selector.label_constraints
        if constraint.label_key == _ASKED_FOR
        for value in constraint.label_values
    )
    return frozenset(names[value] for value in values if value in names)
