"""What nodes cost, by the group that they are of, and a trainer's share of that. Pure.

The group and market of each trainer's node are in the data of its `trainer_ready` event.
"""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import ConfigDict

from surefoot.node_groups import NodeGroup
from surefoot.spec import Resources

__all__ = ["GroupSetting", "per_hour", "share", "trainer_per_second"]


class GroupSetting(NodeGroup):
    """A group as it is set: a word that means nothing is refused."""

    model_config = ConfigDict(extra="forbid")


def per_hour(groups: Mapping[str, NodeGroup], *, group: str = "", market: str = "") -> float | None:
    """Return what a whole node of the group costs an hour.

    Where the group is not known: what one of the market does, if all of that market cost the same. None: that is not known.
    """
    if group in groups:
        return groups[group].price_per_hour
    prices = {g.price_per_hour for g in groups.values() if market and g.market == market}
    return prices.pop() if len(prices) == 1 else None


def share(node: NodeGroup | None, each: Resources) -> float:
    """Return which part of the node a trainer takes: of what it takes most of. The whole node, where that is not known."""
    parts = [
        wanted / there
        for wanted, there in ((each.cpus, node.cpus), (each.gpus, node.gpus))
        if wanted and there
    ] if node else []  # fmt: skip
    return min(1.0, max(parts, default=1.0))


def trainer_per_second(
    groups: Mapping[str, NodeGroup], each: Resources, *, group: str = "", market: str = ""
) -> float | None:
    """Return what a trainer of these resources costs a second on a node of this group; None: that is not known."""
    price = per_hour(groups, group=group, market=market)
    return None if price is None else price / 3600.0 * share(groups.get(group), each)
