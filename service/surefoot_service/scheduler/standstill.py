"""Jobs that stand in each other's way: pure.

A job starts on nodes that the autoscaler could add. Where these do not come, for want of quota or hardware, two jobs may each hold a part
of what either needs, and both wait for ever. Whoever has waited for too long is in vain; of those who want the same nodes the first in
the queue keeps what it has, and the last gives back, one at a time; and nobody is started any more on nodes that another has waited for
in vain.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from surefoot.spec import Resources
from surefoot_service.scheduler.capacity import Capacity, NodeSize

__all__ = ["Starting", "gives_back", "in_vain", "without_hopes"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Starting:
    """A job on the cluster that has not had its fewest trainers yet."""

    job: str
    attempt: str
    each: Resources
    since: datetime


def in_vain(starting: Iterable[Starting], now: datetime, patience: timedelta) -> list[Starting]:
    """Return who has waited for too long, in the order given."""
    return [one for one in starting if now - one.since > patience]


def gives_back(vain: Sequence[Starting], capacity: Capacity) -> Starting | None:
    """Return who gives back what it holds: the last, in the queue's order, that one before it could use it; None: nobody."""
    sizes = (*capacity.nodes, *(a.node for a in capacity.addable))
    for n in range(len(vain) - 1, 0, -1):
        if any(_compete(vain[n].each, earlier.each, sizes) for earlier in vain[:n]):
            return vain[n]
    return None


def without_hopes(capacity: Capacity, vain: Iterable[Starting]) -> Capacity:
    """Return what there is without the nodes that could be added, but have not come for those in vain."""
    left = [a for a in capacity.addable if not any(a.node.places(one.each) for one in vain)]
    return replace(capacity, addable=tuple(left))


def _compete(one: Resources, other: Resources, sizes: Iterable[NodeSize]) -> bool:
    return any(size.places(one) and size.places(other) for size in sizes)
