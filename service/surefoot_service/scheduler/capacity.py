"""What the cluster has, and what its autoscaler could still add: pure, over Ray's live nodes and the groups that are set.

Ray's REST says nothing of what an autoscaler may add (its second version publishes what it does to the control store alone), so the groups'
maxima are a setting, which the chart makes of its worker groups.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from surefoot.node_groups import NodeGroup
from surefoot.spec import Resources

__all__ = ["Addable", "Capacity", "NodeSize", "addable"]


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeSize:
    """What one node has in total."""

    cpus: float
    gpus: float
    # the group that it is of, and the model of its GPUs; empty: not known, or none
    group: str = ""
    device: str = ""

    def places(self, each: Resources) -> int:
        """How many trainers the empty node holds."""
        by_cpu = math.floor(self.cpus / each.cpus + 1e-9)
        return min(by_cpu, math.floor(self.gpus / each.gpus + 1e-9)) if each.gpus else by_cpu


@dataclass(frozen=True, slots=True, kw_only=True)
class Addable:
    """So many nodes of a group that the autoscaler could add to those that are there; perhaps none any more."""

    node: NodeSize
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Capacity:
    """What the cluster has in total, a node at a time, what it could have besides, and what jobs that are on it have reserved."""

    nodes: tuple[NodeSize, ...]
    addable: tuple[Addable, ...] = ()
    used_cpus: float = 0.0
    used_gpus: float = 0.0

    @property
    def cpus(self) -> float:
        return sum(n.cpus for n in self.nodes)

    @property
    def gpus(self) -> float:
        return sum(n.gpus for n in self.nodes)

    @property
    def free_cpus(self) -> float:
        return max(0.0, self.cpus - self.used_cpus)

    @property
    def free_gpus(self) -> float:
        return max(0.0, self.gpus - self.used_gpus)

    @property
    def most(self) -> Capacity:
        """The same with all nodes there that could be added."""
        added = tuple(a.node for a in self.addable for _ in range(a.count))
        return replace(self, nodes=self.nodes + added, addable=())

    def with_used(self, cpus: float, gpus: float) -> Capacity:
        return replace(self, used_cpus=self.used_cpus + cpus, used_gpus=self.used_gpus + gpus)

    def places(self, each: Resources) -> int:
        """How many trainers the empty cluster holds now; those of one job are on one model of GPU."""
        return _most_of_one_device(((node, node.places(each)) for node in self.nodes), each)

    def useful(self, each: Resources) -> tuple[Addable, ...]:
        """What could be added that holds such a trainer."""
        return tuple(a for a in self.addable if a.count and a.node.places(each))


def _most_of_one_device(places: Iterable[tuple[NodeSize, int]], each: Resources) -> int:
    by_device: dict[str, int] = {}
    for node, count in places:
        device = node.device if each.gpus else ""
        by_device[device] = by_device.get(device, 0) + count
    unknown = by_device.pop("", 0)  # may be of any model
    return unknown + max(by_device.values(), default=0)


def addable(groups: Mapping[str, NodeGroup], live: Sequence[NodeSize]) -> tuple[Addable, ...]:
    """Return what the autoscaler could add, in the groups' order: what a group may have, less what lives of it. None where it adds none."""
    found = []
    for name, group in groups.items():
        if group.max_nodes is not None:
            there = sum(node.group == name for node in live)
            size = NodeSize(cpus=group.cpus, gpus=group.gpus, group=name, device=group.device)
            found.append(Addable(node=size, count=max(0, group.max_nodes - there)))
    return tuple(found)
