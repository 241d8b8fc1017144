"""Who computes what: spans of a generation, and the sub-tasks of a round in progress after a loss. Pure arithmetic."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from surefoot_actors.protocol.messages import Generation
from surefoot_actors.protocol.tree import Range, bits, cover, mask

__all__ = ["Holding", "assign", "covers", "owned", "spans"]


def spans(num_trainers: int, num_sub_tasks: int) -> tuple[int, ...]:
    """Return each rank's span as a bitmask: contiguous, in rank order, sizes differing by at most one."""
    width, wider = divmod(num_sub_tasks, num_trainers)
    masks, start = [], 0
    for rank in range(num_trainers):
        end = start + width + (rank < wider)
        masks.append(mask(Range(start, end)))
        start = end
    return tuple(masks)


def owned(generation: Generation, rank: int, round_number: int, num_sub_tasks: int) -> int:
    """Return what a rank owns of a round: as assigned in the generation's first round, its span from then on."""
    if round_number == generation.start:
        return generation.members[rank].own
    return spans(len(generation.members), num_sub_tasks)[rank]


def covers(generation: Generation, round_number: int, num_sub_tasks: int) -> tuple[tuple[Range, ...], ...]:
    """Return, by rank, the tree nodes that each member brings to the round's exchange."""
    return tuple(
        cover(owned(generation, rank, round_number, num_sub_tasks), num_sub_tasks)
        for rank in range(len(generation.members))
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Holding:
    """What a member brings into a new generation."""

    # leaves of the start round it has computed
    held: int = 0
    # what it owned of the start round and may be computing right now
    own: int = 0
    # mean seconds a sub-task takes it; 0 when unknown
    sub_task_s: float = 0.0


def assign(holdings: Mapping[str, Holding], num_sub_tasks: int) -> dict[str, int]:
    """Return each member's sub-tasks of the start round, as bitmasks.

    Computed leaves stay where they are, and so does what a member owned already; the rest is divided so that all finish
    at about the same time, in contiguous runs where that is possible.
    """
    left = (1 << num_sub_tasks) - 1
    own = dict.fromkeys(holdings, 0)
    for claim in ("held", "own"):
        for name, holding in holdings.items():
            kept = getattr(holding, claim) & left
            own[name] |= kept
            left &= ~kept
    for name, run in _divide(bits(left), _quotas(holdings, own, left.bit_count())).items():
        own[name] |= run
    return own


def _quotas(holdings: Mapping[str, Holding], own: Mapping[str, int], num_left: int) -> dict[str, int]:
    """Give sub-tasks one by one to whoever would finish first."""
    known = [h.sub_task_s for h in holdings.values() if h.sub_task_s > 0]
    usual = sum(known) / len(known) if known else 1.0
    pace = {name: holding.sub_task_s or usual for name, holding in holdings.items()}
    todo = {name: (own[name] & ~holdings[name].held).bit_count() for name in holdings}
    quotas = dict.fromkeys(holdings, 0)
    for _ in range(num_left):
        first = min(quotas, key=lambda name: ((todo[name] + quotas[name] + 1) * pace[name], name))
        quotas[first] += 1
    return quotas


def _divide(sub_tasks: Sequence[int], quotas: Mapping[str, int]) -> dict[str, int]:
    runs, at = {}, 0
    for name, quota in quotas.items():
        runs[name] = sum(1 << v for v in sub_tasks[at : at + quota])
        at += quota
    return runs
