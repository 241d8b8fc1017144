"""How many trainers there should be: asks for those that are missing, sends away those that are too many, asks for a boundary."""

from __future__ import annotations

from dataclasses import replace

from surefoot.names import trainer_name
from surefoot_actors.protocol.membership.commands import CancelStart, Command, Outcome, Send, StartTrainer
from surefoot_actors.protocol.membership.common import left, less, number
from surefoot_actors.protocol.membership.state import MembershipState, Phase
from surefoot_actors.protocol.messages import End, RequestBoundary

__all__ = ["backoff_s", "fill", "flag_if_wanted", "leavers", "staying", "trim"]

# The longest that a replacement waits, when failures repeat.
MOST_BACKOFF_S = 30.0


def staying(state: MembershipState) -> tuple[str, ...]:
    """Return the members that were given no notice."""
    return less(state.members, state.leaving)


def fill(state: MembershipState) -> Outcome:
    """Ask for as many trainers as are missing."""
    missing = _num_waiting_wanted(state) - len(state.ready) - len(state.starting)
    if missing <= 0 or state.phase in (Phase.SAVING, Phase.CONCLUDING, Phase.ENDED):
        return state, ()
    asked = tuple(map(trainer_name, range(state.num_started, state.num_started + missing)))
    chain = dict.fromkeys(asked, state.failures_in_row) if state.failures_in_row else {}
    state = replace(
        state,
        starting=state.starting + asked,
        num_started=state.num_started + missing,
        failure_chain={**state.failure_chain, **chain},
    )
    after_s = max(backoff_s(state.failures_in_row), _backoff_of_raises_s(state))
    return state, tuple(StartTrainer(t, after_s, tuple(state.raises)) for t in asked)


def _backoff_of_raises_s(state: MembershipState) -> float:
    """Whoever is asked for after one that raised waits a second, or longer: should another raise the same, the job fails before."""
    return backoff_s(max(state.num_stillborn, 1) + 2) if state.raises else 0.0


def backoff_s(failures: int) -> float:
    """Return how long a replacement waits after so many failures in a row: the first does not, then 0.5, 1, 2, ... s."""
    return 0.0 if failures < 2 else min(0.5 * 2.0 ** min(failures - 2, 30), MOST_BACKOFF_S)


def trim(state: MembershipState) -> Outcome:
    """Withdraw those that are no longer wanted and have no state yet: first the ones still starting."""
    surplus = len(state.ready) + len(state.starting) - _num_waiting_wanted(state)
    if surplus <= 0:
        return state, ()
    starting = state.starting[::-1][:surplus]
    ready = state.ready[::-1][: max(0, surplus - len(starting))]
    state = replace(state, starting=less(state.starting, starting), ready=less(state.ready, ready))
    reason = "not wanted any more"
    told: tuple[Command, ...] = tuple(left(t, state.newest_step, reason) for t in (*starting, *ready))
    ends: tuple[Command, ...] = tuple(Send(t, End(incarnation=state.incarnation, reason=reason)) for t in ready)
    return state, (*told, *(CancelStart(t) for t in starting), *ends)


def _num_waiting_wanted(state: MembershipState) -> int:
    """Return how many are to be starting or ready: what the members lack, and the spares."""
    return 0 if state.pausing else max(0, state.target - len(staying(state))) + state.spares


def flag_if_wanted(state: MembershipState) -> Outcome:
    """Ask for the end of the generation at the next step boundary, if a change is wanted."""
    if state.phase is not Phase.RUNNING or state.flagged or not _change_wanted(state):
        return state, ()
    flag = RequestBoundary(number=number(state), incarnation=state.incarnation)
    return replace(state, flagged=True), tuple(Send(t, flag) for t in state.members)


def _change_wanted(state: MembershipState) -> bool:
    """A pause; too many are here; one may leave since another stays; or a joiner waits and has a place."""
    stay = staying(state)
    return (
        state.pausing
        or len(state.members) > state.target
        or 0 < len(stay) < len(state.members)
        or (bool(state.ready) and len(stay) < state.target)
    )


def leavers(state: MembershipState, stateful: tuple[str, ...]) -> tuple[str, ...]:
    """Return which of those with state leave at a boundary; if all were given notice they stay, till others have the state."""
    stay = less(stateful, state.leaving) or stateful
    return less(stateful, stay[: state.target])
