"""From one generation to the next: its end is told, its members report, and the next is decided once nobody is worth waiting for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from surefoot_actors.protocol.membership.commands import Command, Kill, Outcome, Send
from surefoot_actors.protocol.membership.common import left, less, lost, names
from surefoot_actors.protocol.membership.failures import count, give_up_if_hopeless, progressed
from surefoot_actors.protocol.membership.formation import cut_short, everyone_lost, found
from surefoot_actors.protocol.membership.generation import computed_again, enact, members_of
from surefoot_actors.protocol.membership.scaling import leavers
from surefoot_actors.protocol.membership.state import MembershipState, Phase
from surefoot_actors.protocol.messages import End, EndGeneration, Generation, Report

__all__ = ["decide_if_all", "gives_state", "may_decide", "may_leave", "reported", "reserved"]


# ---- the rules, one function each, so that a test can take one away


def may_decide(state: MembershipState, reporters: Mapping[str, Report]) -> bool:
    """R9: fencing happens at a decision in which someone with state has reported, or nobody is left to wait for."""
    return any(r.round >= 0 for r in reporters.values()) or all(t in state.reports for t in state.members)


def may_leave(reports: Iterable[Report]) -> bool:
    """R7: a drain takes effect only where nobody is behind and the leavers hold nothing of the current round."""
    return all(r.parked for r in reports)


def gives_state(report: Report) -> bool:
    """R5: state for a joiner comes only from trainers parked with the optimizer applied."""
    return report.parked


# ---- the end of the one before


def reserved(state: MembershipState, number: int, nonce: str) -> Outcome:
    """Tell the members that their generation is over, now that the next one's number is durable (R3)."""
    if state.phase is not Phase.RESERVING:
        return state, ()
    state = replace(state, number=number, nonce=nonce)
    if state.generation is None:
        return found(state)
    over = EndGeneration(number=number, incarnation=state.incarnation)
    overs = tuple(Send(t, over) for t in state.members)
    state, more = decide_if_all(replace(state, phase=Phase.COLLECTING))
    return state, (*overs, *more)


def reported(state: MembershipState, report: Report) -> Outcome:
    current = report.number == state.number and report.incarnation == state.incarnation
    if state.phase is not Phase.COLLECTING or not current or report.trainer not in state.members:
        return state, ()
    stores = {**state.stores, report.trainer: report.store}
    return decide_if_all(replace(state, reports={**state.reports, report.trainer: report}, stores=stores))


# ---- the next one


def decide_if_all(state: MembershipState) -> Outcome:
    """Decide the next generation once nobody is worth waiting for."""
    waiting = [t for t in state.members if t not in state.reports and t not in state.suspected]
    if state.phase is not Phase.COLLECTING or waiting:
        return state, ()
    reports = _worth_going_by(state)
    if not may_decide(state, reports):
        return state, ()
    if not any(r.round >= 0 for r in reports.values()):
        return everyone_lost(state, reports)
    return _decide(state, reports)


def _worth_going_by(state: MembershipState) -> dict[str, Report]:
    """Return the reports in rank order: of suspected members only those with state, and only if nobody else has any.

    A member may report and then stop; nobody would tell of it a second time.
    """
    reports = {t: state.reports[t] for t in state.members if t in state.reports}
    healthy = {t: r for t, r in reports.items() if t not in state.suspected}
    if any(r.round >= 0 for r in healthy.values()):
        return healthy
    return {t: r for t, r in reports.items() if t in healthy or r.round >= 0}


def _decide(state: MembershipState, reports: Mapping[str, Report]) -> Outcome:
    """Make the next generation out of what its members reported."""
    newest = max(reports.values(), key=lambda r: r.round)
    start = newest.round
    stateful = {t: r for t, r in reports.items() if r.round >= 0}
    fenced = tuple(t for t in state.members if t not in reports)
    state = count(_learned(progressed(state, start, newest.step), reports, newest), fenced)
    state, failed = give_up_if_hopeless(state, f"{fenced[-1]} did not report in time" if fenced else "")
    if state.ended:
        return state, failed
    leaving = leavers(state, tuple(stateful)) if may_leave(stateful.values()) else ()
    leaving += tuple(t for t in reports if t not in stateful and t in state.leaving)
    staying = {t: r for t, r in stateful.items() if t not in leaving}
    joiners, waiting = _joiners(state, reports, staying, start)
    state = replace(
        state,
        ready=less(waiting, joiners),
        partial_state=(state.partial_state | cut_short(state, reports)).difference(stateful),
    )
    members = members_of(staying, joiners, start, state.num_sub_tasks)
    store = state.stores[members[0].trainer]
    generation = Generation(number=state.number, nonce=state.nonce, start=start, members=members, store=store)
    gone = frozenset(t for t in names(state.generation) if t in state.lost) | frozenset(fenced)
    again = computed_again(state.generation, gone, start, state.num_sub_tasks)
    told = tuple(lost(t, "fenced: it did not report in time") for t in fenced)
    farewell = _farewell(state, leaving, newest.step)
    state, commands = enact(
        state, generation, joined=joiners, left=leaving, lost=tuple(sorted(gone)), again=again, at=newest.step
    )
    # losses are told before the generation is recorded: a supervisor after that knows nothing of them
    return state, (*told, *(Kill(t, "did not report in time") for t in fenced), *commands, *farewell)


def _learned(state: MembershipState, reports: Mapping[str, Report], newest: Report) -> MembershipState:
    """Take over what a supervisor before this one knew."""
    concluded = next((t for t, r in reports.items() if r.concluded), None)
    return replace(
        state,
        num_steps=state.num_steps if state.num_steps is not None else newest.num_steps,
        fingerprint=state.fingerprint if state.fingerprint is not None else newest.fingerprint,
        # it was elected when the state had been saved
        elected=concluded or state.elected,
        saved=state.saved or concluded is not None,
    )


def _joiners(
    state: MembershipState, reports: Mapping[str, Report], staying: Mapping[str, Report], start: int
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return who joins, and who waits, joiners among them: those whose joining was cut short, then those that are ready."""
    again = tuple(t for t, r in reports.items() if r.round < 0 and t not in state.leaving)
    waiting = again + less(state.ready, again)
    takes = all(gives_state(r) for r in staying.values() if r.round == start)
    if not takes or state.pausing:
        return (), waiting
    places = state.target - len(less(tuple(staying), state.leaving))
    return waiting[: max(0, places)], waiting


def _farewell(state: MembershipState, leaving: tuple[str, ...], step: int) -> tuple[Command, ...]:
    ends = tuple(Send(t, End(incarnation=state.incarnation, reason="drained")) for t in leaving)
    told = tuple(left(t, step, state.leaving.get(t, "fewer trainers are wanted")) for t in leaving)
    return (*ends, *told)
