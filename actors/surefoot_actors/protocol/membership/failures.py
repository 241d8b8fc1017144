"""What repeats and what does not: losses without a step in between, and a sub-task that kills whoever computes it.

A failure is a trainer lost (or refused, or fenced). In a row are a trainer, its replacement, the replacement's replacement and so on,
with no step in between: so a job whose trainers all die at once has failed once, however many they are.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from surefoot.spec import JobState
from surefoot_actors.protocol.membership.commands import Outcome
from surefoot_actors.protocol.membership.common import end, fail
from surefoot_actors.protocol.membership.events import Lost
from surefoot_actors.protocol.membership.state import MembershipState

__all__ = ["committed", "count", "give_up_if_hopeless", "poison", "progressed", "row_recorded"]


def count(state: MembershipState, trainers: Iterable[str]) -> MembershipState:
    """Count losses: each makes a row one longer than what it was a replacement for."""
    rows = [state.failure_chain.get(t, 0) + 1 for t in trainers]
    return replace(state, failures_in_row=max([state.failures_in_row, *rows]))


def give_up_if_hopeless(state: MembershipState, last: str) -> Outcome:
    """Fail when more failures in a row than are borne came to nothing."""
    if state.failures_in_row <= state.max_failures:
        return state, ()
    reason = (
        f"{state.failures_in_row} times in a row a trainer was lost, or what replaced it, without a step in between "
        f"(max_failures is {state.max_failures}); the last: {last}"
    )
    return end(state, JobState.FAILED, reason)


def progressed(state: MembershipState, round_number: int, step: int) -> MembershipState:
    """Take note of the newest round; it is progress if nobody was as far before."""
    if round_number == state.newest_round:  # known by now, perhaps without its step
        return replace(state, newest_step=max(state.newest_step, step))
    if round_number < state.newest_round:
        return state
    deaths = {key: who for key, who in state.deaths.items() if key[0] >= round_number}
    raises = {t: r for t, r in state.raises.items() if r.round < 0 or r.round >= round_number}
    return _fruitful(replace(state, newest_round=round_number, newest_step=step, deaths=deaths, raises=raises))


def row_recorded(state: MembershipState, step: int) -> MembershipState:
    """Take note of the newest ledger row."""
    return _fruitful(replace(state, newest_row=step)) if step > state.newest_row else state


def committed(state: MembershipState, url: str) -> MembershipState:
    """Take note of a checkpoint: whatever is lost from now on, what led to it is not done again."""
    checkpoints = (url, *(u for u in state.checkpoints if u != url))
    return _fruitful(replace(state, checkpoints=checkpoints))


def _fruitful(state: MembershipState) -> MembershipState:
    return replace(state, failures_in_row=0, failure_chain={}, num_failed_groups=0)


def poison(state: MembershipState, lost: Lost) -> Outcome:
    """Remember what a member died of; fail the job when another one died of the same sub-task before."""
    trainer, computing = lost.trainer, lost.computing
    if computing is None or lost.cause.from_outside or computing[0] < state.newest_round:
        return state, ()
    died = {**state.deaths.get(computing, {}), trainer: lost.reason}
    state = replace(state, deaths={**state.deaths, computing: died})
    if len(died) < 2:
        return state, ()
    round_number, sub_task = computing
    where = f"round {round_number}"
    if round_number == state.newest_round:
        where = f"step {state.newest_step}"
    elif state.newest_round == state.newest_step > 0:  # so far every step had one round
        where = f"step {round_number}"
    told = " and ".join(f"{t} ({why})" for t, why in died.items())
    advice = "it would kill a third: look at what its samples do to the train function, or at the memory it takes"
    return fail(state, trainer, f"sub-task {sub_task} of {where} killed two trainers, {told}: {advice}")
