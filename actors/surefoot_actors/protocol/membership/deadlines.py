"""What is not waited for without end: which timers a state calls for, and what becomes of it when one of them fires.

A timer is set as soon as a state calls for it, and cancelled as soon as a state calls for it no more. Who keeps the clocks is the shell.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import assert_never

from surefoot_actors.protocol.membership.commands import CancelTimer, Command, Kill, Outcome, SetTimer
from surefoot_actors.protocol.membership.common import then
from surefoot_actors.protocol.membership.events import Lost
from surefoot_actors.protocol.membership.formation import form_if_enough
from surefoot_actors.protocol.membership.losses import lost
from surefoot_actors.protocol.membership.state import MembershipState, Phase, Timer

__all__ = ["fired", "keep_timers", "silent"]

# How long trainers that are enough to begin wait for the rest of those that are wanted.
START_GRACE_S = 10.0
# How long members that are stopped or silent are waited for, when nobody else holds the state: with a checkpoint to go on from, about as
# long as Ray takes to call a node dead; without one as long as a trainer lives that no supervisor asks for.
PATIENCE_S = 60.0
PATIENCE_WITHOUT_CHECKPOINT_S = 600.0


# ---- which timers run


def keep_timers(state: MembershipState) -> Outcome:
    """Set the timers that the state calls for, and cancel the others."""
    called_for = _called_for(state)
    commands: tuple[Command, ...] = ()
    for timer in Timer:
        if timer in called_for and timer not in state.timers:
            commands += (SetTimer(timer, called_for[timer]),)
        elif timer in state.timers and timer not in called_for:
            commands += (CancelTimer(timer),)
    return replace(state, timers=frozenset(called_for)) if commands else state, commands


def _called_for(state: MembershipState) -> dict[Timer, float]:
    called_for: dict[Timer, float] = {}
    if _waits_for_the_rest(state):
        called_for[Timer.START_GRACE] = START_GRACE_S
    if silent(state):
        called_for[Timer.PATIENCE] = PATIENCE_S if state.checkpoints else PATIENCE_WITHOUT_CHECKPOINT_S
    return called_for


def _waits_for_the_rest(state: MembershipState) -> bool:
    """Once it runs it runs on, whatever becomes of those that are ready: an attempt bears this wait once."""
    enough = state.phase is Phase.FORMING and len(state.ready) >= state.min_trainers
    return not state.grace_over and (enough or Timer.START_GRACE in state.timers)


def silent(state: MembershipState) -> tuple[str, ...]:
    """Return the members that are suspected and waited for: nobody else has the state (R9).

    A generation that stands has suspected members only if it was formed while all that held the state were suspected. They may have
    stopped since, and whoever joins in that generation waits for their state: so it makes no difference whether others are members too.
    """
    if state.phase in (Phase.RUNNING, Phase.SAVING, Phase.CONCLUDING):
        return tuple(t for t in state.members if t in state.suspected)
    waited_for = tuple(t for t in state.members if t not in state.reports)
    all_are = bool(waited_for) and state.suspected.issuperset(waited_for)
    return waited_for if state.phase is Phase.COLLECTING and all_are else ()


# ---- when one fires


def fired(state: MembershipState, timer: Timer) -> Outcome:
    """Wait no longer."""
    if timer not in state.timers:
        return state, ()
    state = replace(state, timers=state.timers - {timer})
    match timer:
        case Timer.START_GRACE:
            return form_if_enough(replace(state, grace_over=True))
        case Timer.PATIENCE:
            return _give_up(state, silent(state))
        case _:
            assert_never(timer)


def _give_up(state: MembershipState, trainers: tuple[str, ...]) -> Outcome:
    """Go on without the last that hold the state: from a checkpoint, or from step 0, to the same bytes.

    All are ended before anything is decided without them.
    """
    reason = "it was not seen running for too long, and nobody else holds the state"
    kills = tuple(Kill(t, reason) for t in trainers)
    state, commands = then(state, *(partial(lost, event=Lost(t, reason)) for t in trainers))
    return state, (*kills, *commands)
