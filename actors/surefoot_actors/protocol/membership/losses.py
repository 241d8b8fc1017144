"""Trainers that are lost, suspected, or were given notice."""

from __future__ import annotations

from dataclasses import replace
from typing import assert_never

from surefoot.spec import JobState
from surefoot_actors.protocol.membership import common
from surefoot_actors.protocol.membership.commands import CancelStart, Kill, Outcome, Send
from surefoot_actors.protocol.membership.common import less, start_over, then
from surefoot_actors.protocol.membership.completion import conclude_if_all_done, elect, pause_if_all_left, save
from surefoot_actors.protocol.membership.events import Lost
from surefoot_actors.protocol.membership.failures import count, give_up_if_hopeless, poison
from surefoot_actors.protocol.membership.formation import form_if_enough
from surefoot_actors.protocol.membership.regrouping import decide_if_all
from surefoot_actors.protocol.membership.scaling import fill, flag_if_wanted
from surefoot_actors.protocol.membership.state import MembershipState, Phase
from surefoot_actors.protocol.messages import End

__all__ = ["group_failed", "lost", "noticed", "suspected", "suspicion_cleared"]

# Groups that fail one after the other without a round in between, before the attempt is given up.
MAX_FAILED_GROUPS = 20


# ---- lost


def lost(state: MembershipState, event: Lost) -> Outcome:
    """Replace it, and go on without it meanwhile."""
    trainer, was_member = event.trainer, event.trainer in state.members
    if not was_member and trainer not in (*state.starting, *state.ready):
        return state, ()
    told, reason = (
        common.lost(trainer, event.reason, event.traceback, event.story),
        f"{trainer} was lost: {event.reason}",
    )
    state = _forget(count(state, (trainer,)), trainer)
    state = replace(state, lost=state.lost | {trainer}) if was_member else state
    state, commands = then(
        state,
        lambda s: poison(s, event) if was_member else (s, ()),
        lambda s: give_up_if_hopeless(s, reason),
        fill,
        lambda s: _after_loss(s, reason) if was_member else form_if_enough(s),
    )
    return state, (told, *commands)


def _forget(state: MembershipState, trainer: str) -> MembershipState:
    return replace(
        state,
        starting=less(state.starting, (trainer,)),
        ready=less(state.ready, (trainer,)),
        partial_state=state.partial_state - {trainer},
        suspected=state.suspected - {trainer},
        leaving={t: why for t, why in state.leaving.items() if t != trainer},
        failure_chain={t: row for t, row in state.failure_chain.items() if t != trainer},
    )


def _after_loss(state: MembershipState, reason: str) -> Outcome:
    match state.phase:
        case Phase.COLLECTING:
            return decide_if_all(state)
        case Phase.RUNNING:
            state, commands = then(state, conclude_if_all_done, pause_if_all_left)
            return (state, commands) if state.phase is not Phase.RUNNING else start_over(state, reason)
        case Phase.SAVING if state.members:
            return save(state)
        case Phase.CONCLUDING if state.members:
            return elect(state) if state.elected not in state.members else (state, ())
        case Phase.CONCLUDING | Phase.SAVING:
            return start_over(state, reason)
        case Phase.FORMING | Phase.RESTORING | Phase.RESERVING | Phase.ENDED:
            return state, ()
        case _:
            assert_never(state.phase)


# ---- suspected


def suspected(state: MembershipState, trainer: str, reason: str) -> Outcome:
    if trainer in state.starting or trainer in state.ready:
        # no state is at stake: simply another one instead
        state, commands = lost(state, Lost(trainer, reason))
        return state, (Kill(trainer, reason), *commands)
    if trainer not in state.members:
        return state, ()
    state = replace(state, suspected=state.suspected | {trainer})
    if state.phase is Phase.COLLECTING:
        return decide_if_all(state)
    if state.phase in (Phase.RUNNING, Phase.SAVING, Phase.CONCLUDING):
        return start_over(state, f"{trainer} is suspected: {reason}")
    return state, ()


def suspicion_cleared(state: MembershipState, trainer: str) -> Outcome:
    state = replace(state, suspected=state.suspected - {trainer})
    others = state.suspected.intersection(state.members)
    running = state.phase in (Phase.RUNNING, Phase.SAVING, Phase.CONCLUDING)
    if running and trainer in state.members and others:
        # suspected ones were taken along only because nobody better had state
        return start_over(state, f"{min(others)} is still suspected")
    return state, ()


# ---- neither lost nor well


def group_failed(state: MembershipState, trainer: str, generation: int, reason: str) -> Outcome:
    """Form another group, unless they fail one after the other and nothing comes of it."""
    if state.phase is not Phase.RUNNING or generation != common.number(state) or trainer not in state.members:
        return state, ()
    reason = f"{trainer}'s process group failed: {reason}"
    state = replace(state, num_failed_groups=state.num_failed_groups + 1)
    if state.num_failed_groups > MAX_FAILED_GROUPS:
        why = f"{state.num_failed_groups} process groups failed without a step in between; the last: {reason}"
        return common.end(state, JobState.FAILED, why)
    return start_over(state, reason)


def noticed(state: MembershipState, trainer: str, reason: str) -> Outcome:
    """Replace it before it is lost: a member leaves at the next boundary at which another one has the state."""
    told = common.left(trainer, state.newest_step, reason)
    if trainer in state.starting:
        state, more = then(_forget(state, trainer), fill, form_if_enough)
        return state, (told, CancelStart(trainer), *more)
    if trainer in state.ready:
        state, more = then(_forget(state, trainer), fill, form_if_enough)
        return state, (told, Send(trainer, End(incarnation=state.incarnation, reason=reason)), *more)
    if trainer not in state.members or trainer in state.leaving:
        return state, ()
    state, more = then(
        replace(state, leaving={**state.leaving, trainer: reason}),
        fill,
        flag_if_wanted,
    )
    return state, (common.warn(f"{trainer} was given notice and leaves at a step boundary: {reason}"), *more)
