"""What a trainer's code raised: the user's mistake, which fails the job, or something that is wrong where this trainer runs.

All trainers run the same code on the same state, so what is wrong with the code is raised by the second one as well: in the same
sub-task, which is handed to it, or at the same line. What one alone raises where others train well (its data is not there, its disk is
full) is the loss of that trainer: told with the traceback, counted as any loss, and tried elsewhere.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from surefoot.events import EventKind
from surefoot.spec import JobState
from surefoot_actors.protocol.membership.commands import Emit, Kill, Outcome
from surefoot_actors.protocol.membership.common import end, told
from surefoot_actors.protocol.membership.events import Lost
from surefoot_actors.protocol.membership.losses import lost
from surefoot_actors.protocol.membership.state import MembershipState
from surefoot_actors.protocol.messages import Raised

__all__ = ["Verdict", "judge", "raised"]

# What so many trainers raised is remembered.
MOST_RAISES = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """`fails`: what fails the job, as it was raised first; None: it is the trainer's loss."""

    fails: Raised | None
    reason: str


def raised(state: MembershipState, message: Raised) -> Outcome:
    """Fail the job, or go on without this trainer."""
    trainer = message.trainer
    if trainer not in (*state.members, *state.ready, *state.starting):
        return state, ()  # it was drained or fenced: what its code does then decides nothing
    verdict = judge(state, message)
    if verdict.fails is not None:
        return _fail(state, verdict.fails)
    before_steps = trainer in state.starting
    raises = {**state.raises, trainer: message}
    state = replace(
        state,
        raises=dict(list(raises.items())[-MOST_RAISES:]),
        num_stillborn=state.num_stillborn + before_steps,
    )
    where = f" at {message.line}" if message.line else ""
    reason = (
        f"{'it' if message.elsewhere else 'its code'} raised {message.kind}: {message.message}{where}; {verdict.reason}"
    )
    state, commands = lost(state, Lost(trainer, reason, traceback=message.traceback, story=message.story))
    if state.ended:  # too many in a row
        return state, (_failed(state.reason, message), *commands)
    return state, (Kill(trainer, reason), *commands)


def judge(state: MembershipState, message: Raised) -> Verdict:
    """Tell whether what this trainer raised fails the job, and why."""
    if message.fatal:
        return Verdict(fails=message, reason="it breaks the contract, whoever runs it")
    if message.elsewhere:
        return Verdict(fails=None, reason="it is tried elsewhere")
    others = [t for t in (*state.members, *state.ready) if t != message.trainer and t not in state.suspected]
    same = next((r for r in state.raises.values() if _confirms(r, message)), None)
    if message.trainer in state.members:
        if same is not None:
            return Verdict(fails=same, reason=f"{same.trainer} and {message.trainer} raised the same")
        if not any(t in state.members for t in others):
            return Verdict(fails=message, reason="nobody is left that trains")
        return Verdict(fails=None, reason="others hold the same state and go on")
    if others:
        return Verdict(fails=None, reason="others have come past this line")
    if same is not None:
        return Verdict(fails=same, reason=f"{same.trainer} and {message.trainer} raised the same")
    if state.fingerprint is not None or state.number:  # a supervisor before this one may have known whose
        return Verdict(fails=None, reason="others came past this line before")
    if not message.alone and any(t != message.trainer for t in state.starting):
        return Verdict(fails=None, reason="others are on their way to this line")
    return Verdict(fails=message, reason="nobody else has come to this line")


def _confirms(earlier: Raised, message: Raised) -> bool:
    """Whether two trainers raised the same: at one line, or in one sub-task."""
    if earlier.trainer == message.trainer or earlier.elsewhere or earlier.round != message.round:
        return False
    same_line = (earlier.kind, earlier.line) == (message.kind, message.line)
    same_sub_task = message.sub_task >= 0 and earlier.sub_task == message.sub_task
    return same_line or same_sub_task


def _fail(state: MembershipState, first: Raised) -> Outcome:
    reason = f"{first.kind}: {first.message}"
    state, commands = end(state, JobState.FAILED, reason)
    return state, (_failed(reason, first), *commands)


def _failed(reason: str, message: Raised) -> Emit:
    data = {"reason": reason, "traceback": message.traceback, "trainer": message.trainer}
    return Emit(EventKind.FAILED, {**data, **told(message.story)})
