"""What to do about an attempt, from what is known of it: a pure decision with its reason.

An attempt is launched, claimed by its launcher, and told of by its supervisor from then on. Wherever that chain breaks, the attempt
is lost: it is fenced and cleaned off the cluster, and its job is tried again (`retries`); so every wait here has an end.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from surefoot.spec import JobState
from surefoot_service.cluster.jobs_api import RayJob, RayStatus
from surefoot_service.policy.lifecycle import after_steps

__all__ = ["Action", "Facts", "Judgement", "Patience", "decide"]


class Action(StrEnum):
    """What the reconciler does next with an attempt."""

    WAIT = "wait"
    # hand it to Ray; doubled submissions are harmless
    SUBMIT = "submit"
    # it is over: fence it, remove what it has on the cluster, then the job becomes what the verdict says
    CONDEMN = "condemn"
    # its job has ended and nothing of it is left: have Ray forget the submission
    FORGET = "forget"


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long is waited for whom."""

    # a supervisor to confirm a cancel
    cancel: timedelta = timedelta(seconds=30)
    # a supervisor's first word, after its launcher has ended well
    first_word: timedelta = timedelta(seconds=120)
    # a supervisor's next word; trainers without a supervisor end themselves after as long
    silence: timedelta = timedelta(minutes=10)
    # a launcher to end, after its job has
    launcher: timedelta = timedelta(seconds=60)


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What is known of a job's newest attempt."""

    state: JobState
    now: datetime
    ended_at: datetime | None
    cancel_at: datetime | None
    submitted: bool
    claimed_at: datetime | None
    # when its supervisor first and last said something
    spoke_at: datetime | None
    heard_at: datetime | None
    # it was made in the Ray session that is there now
    same_session: bool
    # what Ray says of its launcher; None: Ray knows of none
    launcher: RayJob | None
    # why its supervisor's actor is dead for good, as Ray says; empty: it is not, or that is not known
    supervisor_death: str = ""
    # which of the job's attempts it is, and the steps that they have done so far
    number: int = 1
    steps_done: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """What to do, and for a condemned attempt what becomes of its job and why: queued says that the attempt is lost."""

    action: Action
    verdict: JobState | None = None
    reason: str = ""


_WAIT = Judgement(action=Action.WAIT)


def decide(facts: Facts, patience: Patience) -> Judgement:
    """Return what to do about the attempt."""
    if not facts.same_session:
        return _on_a_lost_cluster(facts)
    if _is_over(facts):
        return _after_the_end(facts, patience)
    if facts.cancel_at is not None:
        return _cancelling(facts, facts.cancel_at, patience)
    if facts.state is JobState.PAUSING and facts.claimed_at is None:
        # A claim is refused from the pause on: nothing has begun that would have to be saved.
        return Judgement(action=Action.CONDEMN, verdict=JobState.PAUSED, reason=f"paused {_before_it_started(facts)}")
    if not facts.submitted:
        return Judgement(action=Action.SUBMIT)
    if facts.supervisor_death:
        return _lost(f"its supervisor is dead: {facts.supervisor_death}")
    if facts.spoke_at is None:
        return _before_the_first_word(facts, patience)
    heard = facts.heard_at or facts.spoke_at
    if facts.now - heard > patience.silence:
        return _lost(f"its supervisor has said nothing since {heard:%H:%M:%S} UTC")
    return _WAIT


def _is_over(facts: Facts) -> bool:
    """Whether the attempt has nothing more to do: its job has ended, is paused, or was resumed since."""
    return facts.state.ended or facts.state in (JobState.PAUSED, JobState.QUEUED)


def _before_it_started(facts: Facts) -> str:
    """Of an attempt that was never claimed: its job may have come far in those before."""
    who = "it" if facts.number == 1 else f"attempt {facts.number}"
    return f"before {who} started{after_steps(facts.steps_done)}"


def _lost(reason: str) -> Judgement:
    return Judgement(action=Action.CONDEMN, verdict=JobState.QUEUED, reason=reason)


def _on_a_lost_cluster(facts: Facts) -> Judgement:
    if _is_over(facts):
        return Judgement(action=Action.FORGET)
    if facts.cancel_at is not None:
        reason = "cancelled; the cluster it ran on is gone"
        return Judgement(action=Action.CONDEMN, verdict=JobState.CANCELLED, reason=reason)
    return _lost("the Ray cluster it ran on is gone")


def _after_the_end(facts: Facts, patience: Patience) -> Judgement:
    if facts.launcher is None or facts.launcher.status.ended:
        return Judgement(action=Action.FORGET)
    since = facts.ended_at or facts.heard_at
    if since is not None and facts.now - since > patience.launcher:
        # The job keeps the state that its supervisor told; what is left of it goes.
        return Judgement(action=Action.CONDEMN, verdict=None, reason="its launcher did not end")
    return _WAIT


def _cancelling(facts: Facts, since: datetime, patience: Patience) -> Judgement:
    if facts.claimed_at is None:
        # A claim is refused from the cancel on, so there is nothing that only a supervisor could end.
        reason = f"cancelled {_before_it_started(facts)}"
        return Judgement(action=Action.CONDEMN, verdict=JobState.CANCELLED, reason=reason)
    if facts.supervisor_death:
        reason = f"cancelled; its supervisor is dead: {facts.supervisor_death}"
        return Judgement(action=Action.CONDEMN, verdict=JobState.CANCELLED, reason=reason)
    if facts.now - since > patience.cancel:
        reason = (
            f"cancelled; its supervisor did not confirm within {patience.cancel.total_seconds():g} s and was removed"
        )
        return Judgement(action=Action.CONDEMN, verdict=JobState.CANCELLED, reason=reason)
    return _WAIT


def _before_the_first_word(facts: Facts, patience: Patience) -> Judgement:
    if facts.launcher is None:
        return _lost("Ray no longer knows of its launcher")
    match facts.launcher.status:
        case RayStatus.PENDING | RayStatus.RUNNING:
            return _WAIT
        case RayStatus.FAILED | RayStatus.STOPPED:
            return _lost(f"its launcher failed: {facts.launcher.message}")
        case RayStatus.SUCCEEDED:
            if facts.claimed_at is None:
                return _lost("its launcher ended without claiming the attempt")
            if facts.now - facts.claimed_at > patience.first_word:
                return _lost("its supervisor never said a word")
            return _WAIT
