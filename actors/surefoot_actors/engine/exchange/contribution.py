"""One member's part in the merge of a round, and what the merge comes to."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from surefoot_actors.engine.exchange.signals import NO_SIGNALS, Signals
from surefoot_actors.engine.types import Layout, Merged, Node, Range, StateTable

__all__ = ["NOTHING_SHOWN", "NO_DIGEST", "NO_DRIFT", "Contribution", "MergeResult", "Shown"]

#: what is told of the tracked state in a round that looks at none of it
NO_DRIFT = bytes(16)
#: of a sub-task that is not compared
NO_DIGEST = bytes(16)


class Shown(NamedTuple):
    """What came out of sub-tasks that two members compute: 16 bytes each, NO_DIGEST where there is nothing to compare."""

    # of one of the rank's own sub-tasks
    own: bytes
    # of another's
    other: bytes


NOTHING_SHOWN = Shown(NO_DIGEST, NO_DIGEST)


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
    # which sub-tasks two ranks have computed: (the rank that owns it, the rank that has computed it besides, sub-task)
    cross_checks: Sequence[tuple[int, int, int]] = ()
    shown: Shown = NOTHING_SHOWN
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
