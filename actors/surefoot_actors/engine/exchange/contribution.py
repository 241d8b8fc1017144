"""One member's part in the merge of a round, and what the merge comes to."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from surefoot_actors.engine.exchange.signals import NO_SIGNALS, Signals
from surefoot_actors.engine.types import Layout, Merged, Node, Range, StateTable

__all__ = ["NO_DRIFT", "Contribution", "MergeResult"]

#: what is told of the tracked state in a round that looks at none of it
NO_DRIFT = bytes(16)


@dataclass(frozen=True, slots=True, kw_only=True)
class Contribution:
    """All own leaves of the round, folded, and what is told with them."""

    round: int
    step: int
    num_sub_tasks: int
    # by rank: the maximal tree nodes that each rank holds
    covers: Sequence[Sequence[Range]]
    # this rank's nodes: they are only read, and not at all after the merge
    nodes: Mapping[Range, Node]
    signals: Signals = NO_SIGNALS
    # 16 bytes over this step's stripe of the tracked state
    drift: bytes = NO_DRIFT
    # what that state's digests are, asked where members have drifted apart, to name what differs
    look: Callable[[], StateTable] | None = None
    # the layout of this phase's last committed round, equal on all members
    agreed: Layout | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class MergeResult:
    """The same on every member."""

    merged: Merged
    # what any member has sent
    signals: Signals
    # the round's layout: `agreed` for the next round of this phase
    layout: Layout
