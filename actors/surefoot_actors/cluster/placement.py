"""On which nodes a trainer is asked for: the cheaper group first that has room, dearer ones when it does not come. Pure.

A trainer is one pending actor with label selectors in an order. Ray places it on the first of them that has room now, so that a node which
is there and free is taken at once; its autoscaler adds a node for the first of them that may have one more. To move on is to ask again
without the group that was waited for: to the autoscaler a node that it has asked for, and that does not come, is room.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from surefoot.node_groups import NodeGroup
from surefoot.spec import Resources
from surefoot_actors.cluster.environment import KIND_LABELS

__all__ = ["Selector", "device_for", "next_waited", "order", "selectors", "to_ask"]

Selector = Mapping[str, str]


def order(groups: Mapping[str, NodeGroup], each: Resources, device: str = "") -> list[str]:
    """Return the groups whose nodes hold such a trainer, the one to ask first at the head.

    The cheaper comes first; where not all prices are known, the one of the higher priority. One that gets no nodes comes last: those that
    it has all the same are as good as others, and the scheduler counts them. With a `device`, groups that are known to have another are
    left out: the trainers of a job are of one model.
    """
    fits = [name for name, group in groups.items() if _holds(group, each, device)]
    priced = all(groups[name].price_per_hour is not None for name in fits)

    def key(name: str) -> tuple[bool, float, int, str]:
        price = groups[name].price_per_hour if priced else None
        return groups[name].max_nodes == 0, price or 0.0, -groups[name].priority, name

    return sorted(fits, key=key)


def to_ask(names: Sequence[str], waited: frozenset[str]) -> list[str]:
    """Return those of the groups that are asked: the ones that were not waited for; all, where all were."""
    return [name for name in names if name not in waited] or list(names)


def next_waited(names: Sequence[str], waited: frozenset[str]) -> frozenset[str]:
    """Return what counts as waited for when the time is over: the group that was asked first too. All of them: begin anew."""
    now = waited | set(to_ask(names, waited)[:1])
    return frozenset() if now.issuperset(names) else now


def _holds(group: NodeGroup, each: Resources, device: str) -> bool:
    if each.gpus and device and group.device and group.device != device:
        return False
    return _places(group, each) > 0


def _places(group: NodeGroup, each: Resources) -> int:
    """How many such trainers a node holds. What is not said of it is no hindrance: of a group that has a price alone, one."""
    if not group.cpus and not group.gpus:
        return 1
    by_cpu = int(group.cpus / each.cpus + 1e-9) if group.cpus else 1
    return min(by_cpu, int(group.gpus / each.gpus + 1e-9)) if each.gpus else by_cpu


def device_for(
    groups: Mapping[str, NodeGroup], each: Resources, least: int, passed: frozenset[str] = frozenset()
) -> str:
    """Return the model of GPU that a job's trainers are to be of: the first in order that has room for the fewest; empty: any.

    Groups of which no model is known count for none: Ray tells of a node's model only when it is there. Models that were waited for in
    vain, before any node was had, are `passed` over while there is another.
    """
    models = _models(groups, each, least)
    return next((model for model in models if model not in passed), models[0] if models else "")


def _models(groups: Mapping[str, NodeGroup], each: Resources, least: int) -> list[str]:
    names = [name for name in order(groups, each) if groups[name].max_nodes != 0]
    if not each.gpus or any(not groups[name].device for name in names):
        return []
    found = []
    for device in dict.fromkeys(groups[name].device for name in names):
        mine = [groups[name] for name in names if groups[name].device == device]
        if any(g.max_nodes is None for g in mine) or least <= sum(_places(g, each) * (g.max_nodes or 0) for g in mine):
            found.append(device)
    return found


def selectors(names: Sequence[str], known: Iterable[str], device: str, shunned: Sequence[str]) -> list[Selector]:
    """Return label selectors in the order in which they are tried: the groups, then nodes of no group that is known. Empty: any node.

    So no node is added of a group that is not named. `shunned` are ids of nodes that are taken only if there is nothing else.
    """
    outside: Selector = {KIND_LABELS["group"]: _none_of(known)} if known else {}
    outside = {**outside, KIND_LABELS["device"]: device} if device else outside
    tried: list[Selector] = [*({KIND_LABELS["group"]: name} for name in names), outside]
    if shunned:
        apart = {"ray.io/node-id": _none_of(shunned)}
        tried = [*({**selector, **apart} for selector in tried), *tried]
    return tried if tried != [{}] else []


def _none_of(values: Iterable[str]) -> str:
    return f"!in({','.join(sorted(values))})"
