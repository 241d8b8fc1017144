"""A generation: made out of what its members reported, recorded, told."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from surefoot.events import EventKind
from surefoot_actors.protocol.membership.commands import Emit, Outcome, Record, Send
from surefoot_actors.protocol.membership.common import names, then
from surefoot_actors.protocol.membership.scaling import fill, flag_if_wanted, trim
from surefoot_actors.protocol.membership.state import MembershipState, Phase
from surefoot_actors.protocol.messages import EnterGeneration, Generation, Member, Report
from surefoot_actors.protocol.spans import Holding, assign, owned, spans

__all__ = ["computed_again", "enact", "members_of"]


def members_of(
    staying: Mapping[str, Report], joiners: tuple[str, ...], start: int, num_sub_tasks: int
) -> tuple[Member, ...]:
    """Return who is what in the generation that starts with round `start`, in rank order."""
    settled = {t: r for t, r in staying.items() if r.round == start}
    behind = {t: r for t, r in staying.items() if r.round < start}
    assert all(r.round == start - 1 for r in behind.values()), "members more than one round apart"
    holders = [t for t, r in settled.items() if r.retained]
    assert holders or not behind, "nobody holds the merged vector that members missed"
    if all(r.parked for r in settled.values()) and not behind:
        order = (*settled, *joiners)
        own = dict(zip(order, spans(len(order), num_sub_tasks), strict=True))
    else:
        holdings = {t: Holding(held=r.held, own=r.own, sub_task_s=r.sub_task_s) for t, r in settled.items()}
        holdings |= {t: Holding(sub_task_s=r.sub_task_s) for t, r in behind.items()} | {t: Holding() for t in joiners}
        own = assign(holdings, num_sub_tasks)
        # ranks stay in order: the first one, whose files are kept, is the first as long as it lives
        order = (*staying, *joiners)
    source = {t: order.index(holders[k % len(holders)]) for k, t in enumerate(behind)}
    return tuple(
        Member(
            trainer=t,
            own=own[t],
            role="settled" if t in settled else "behind" if t in behind else "joining",
            source=source.get(t),
            checked=t in staying and staying[t].checked,
        )
        for t in order
    )


def computed_again(generation: Generation | None, lost: frozenset[str], start: int, num_sub_tasks: int) -> int:
    """Upper bound of the sub-tasks of the start round that are computed a second time: what the lost ones owned of it."""
    if generation is None:
        return 0
    owns = (
        owned(generation, rank, start, num_sub_tasks) for rank, m in enumerate(generation.members) if m.trainer in lost
    )
    return sum(mask.bit_count() for mask in owns)


def enact(
    state: MembershipState,
    generation: Generation,
    *,
    joined: tuple[str, ...],
    left: tuple[str, ...] = (),
    lost: tuple[str, ...] = (),
    again: int = 0,
    at: int = 0,
) -> Outcome:
    """Record the generation, then tell its members. `at` is the step that it starts in."""
    trainers = names(generation)
    event = Emit(
        EventKind.GENERATION,
        {
            "generation": generation.number,
            "trainers": list(trainers),
            "step": at,
            "reason": state.reason,
            "joined": list(joined),
            "lost": list(lost),
            "left": list(left),
            "sub_tasks_again": again,
            "num_steps": state.num_steps,
        },
    )
    state = replace(
        state,
        phase=Phase.RUNNING,
        generation=generation,
        ready=tuple(t for t in state.ready if t not in trainers),
        lost=frozenset(),
        suspected=state.suspected.intersection(trainers),
        leaving={t: why for t, why in state.leaving.items() if t in trainers},
        reports={},
    )
    enter = EnterGeneration(generation=generation, incarnation=state.incarnation)
    sends = tuple(Send(t, enter) for t in trainers)
    state, more = then(state, trim, fill, flag_if_wanted)
    return state, (Record(generation), *sends, event, *more)
