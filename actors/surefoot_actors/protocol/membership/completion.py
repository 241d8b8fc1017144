"""How a run comes to its end, or to a pause: all are parked, their state is saved, one runs the code after the loop."""

from __future__ import annotations

from dataclasses import replace

from surefoot.events import EventKind
from surefoot.spec import JobState
from surefoot_actors.protocol.membership.commands import Emit, Outcome, SaveState, Send
from surefoot_actors.protocol.membership.common import end, fail, number, start_over, then
from surefoot_actors.protocol.membership.failures import progressed
from surefoot_actors.protocol.membership.scaling import flag_if_wanted, staying, trim
from surefoot_actors.protocol.membership.state import MembershipState, Phase
from surefoot_actors.protocol.messages import Done, Elected, Parked, Returned

__all__ = [
    "conclude_if_all_done",
    "done",
    "elect",
    "parked",
    "pause_if_all_left",
    "pause_requested",
    "returned",
    "save",
    "state_saved",
]


# ---- after the last step


def done(state: MembershipState, message: Done) -> Outcome:
    if state.phase is not Phase.RUNNING or message.generation != number(state) or message.trainer not in state.members:
        return state, ()
    return conclude_if_all_done(replace(state, done={**state.done, message.trainer: message}))


def conclude_if_all_done(state: MembershipState) -> Outcome:
    """The run's steps are complete when every live member says so, and all hold the same bytes."""
    members = state.members
    if not _all_done(state):
        return state, ()
    digests = {state.done[t].digest for t in members}
    if len(digests) > 1:
        return end(
            state,
            JobState.FAILED,
            "the trainers' final states differ: `surefoot check` on this train function tells whether its code or Surefoot is at fault",
        )
    finished = Emit(EventKind.FINISHED, {"steps": state.done[members[0]].steps, "digest": digests.pop()})
    state, commands = save(state) if state.saves and not state.saved else elect(state)
    return state, (finished, *commands)


def returned(state: MembershipState, message: Returned) -> Outcome:
    """In any phase, and whichever supervisor elected it: every step was committed by then."""
    if message.trainer != state.elected and message.trainer not in state.members:
        return state, ()
    warned = (Emit(EventKind.WARNING, {"message": message.warning}),) if message.warning else ()
    why = message.ended_early or "every step is committed"
    state, commands = end(state, JobState.SUCCEEDED, f"{why} and the train function returned")
    return state, (*warned, *commands)


def _all_done(state: MembershipState) -> bool:
    return bool(state.members) and all(t in state.done for t in state.members)


def elect(state: MembershipState) -> Outcome:
    """Have one member run the code after the loop: the same one as before, if it is there."""
    elected = state.elected if state.elected in state.members else (*staying(state), *state.members)[0]
    state = replace(state, phase=Phase.CONCLUDING, elected=elected)
    return state, (Send(elected, Elected(incarnation=state.incarnation)),)


# ---- at a boundary


def parked(state: MembershipState, message: Parked) -> Outcome:
    if state.phase is not Phase.RUNNING or message.generation != number(state) or message.trainer not in state.members:
        return state, ()
    state = progressed(replace(state, left=state.left | {message.trainer}), message.round, state.newest_step)
    if not all(t in state.left or t in state.done for t in state.members):
        return state, ()
    state, commands = pause_if_all_left(state)
    return (state, commands) if commands else start_over(state, "a planned change")


def pause_requested(state: MembershipState) -> Outcome:
    """Stop at the next step boundary; at once, if nobody has anything that is not saved."""
    if state.pausing:
        return state, ()
    state = replace(state, pausing=True)
    if state.generation is None:
        return end(state, JobState.PAUSED, "no step has been made in this attempt")
    return then(state, trim, flag_if_wanted)


def pause_if_all_left(state: MembershipState) -> Outcome:
    """All are parked at one boundary: save the state there."""
    if not state.pausing or not state.members or any(t not in state.left for t in state.members):
        return state, ()
    return save(state)


# ---- saving what parked members hold


def save(state: MembershipState) -> Outcome:
    """Have the members save their state, a share each; told again, with those that are left."""
    command = SaveState(members=state.members, generation=number(state), pausing=not _all_done(state))
    return replace(state, phase=Phase.SAVING), (command,)


def state_saved(state: MembershipState, error: str) -> Outcome:
    if state.phase is not Phase.SAVING:
        return state, ()
    if not _all_done(state):
        reason = (
            f"stopped at a step boundary, but not saved: {error}" if error else "stopped at a step boundary, and saved"
        )
        return end(state, JobState.PAUSED, reason)
    return fail(state, "", error) if error else elect(replace(state, saved=True))
