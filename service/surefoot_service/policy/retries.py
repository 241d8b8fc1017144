"""What becomes of a job whose attempt is lost: a pure decision with its reason.

An attempt's loss is not the job's: the job waits a little and is tried again, from its newest checkpoint. Only losses in a row without
any progress between them count against it.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from surefoot.spec import JobState

__all__ = ["Loss", "RetryDecision", "after_loss"]

_LONGEST_S = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Loss:
    """An attempt that is lost, and its job."""

    # the job's, when the attempt was lost
    state: JobState
    cancelling: bool
    # why the attempt is lost, a sentence
    reason: str
    # losses in a row before this one, as of the last progress
    losses: int
    # whether this attempt has brought a ledger row or a checkpoint
    progressed: bool
    # as in the spec: so many losses in a row are borne
    max_failures: int
    now: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryDecision:
    """What the job becomes."""

    state: JobState
    reason: str
    # losses in a row, this one included
    losses: int
    # a queued one is not started before
    retry_at: datetime | None = None


def after_loss(loss: Loss) -> RetryDecision:
    """Return what the job becomes: cancelled or paused where that was asked for, failed for too many losses, else queued again."""
    losses = 1 if loss.progressed else loss.losses + 1
    if loss.cancelling:
        return RetryDecision(state=JobState.CANCELLED, reason=f"cancelled; {loss.reason}", losses=losses)
    if loss.state is JobState.PAUSING:
        reason = f"paused; {loss.reason}, so it goes on from the newest checkpoint"
        return RetryDecision(state=JobState.PAUSED, reason=reason, losses=losses)
    if losses > loss.max_failures:
        return RetryDecision(state=JobState.FAILED, reason=_too_many(loss, losses), losses=losses)
    pause = timedelta(seconds=0.0 if loss.progressed else min(_LONGEST_S, 2.0 ** min(losses - 1, 10)))
    when = f"at {loss.now + pause:%H:%M:%S} UTC" if pause else "at once"
    reason = f"{loss.reason}; it is tried again {when}"
    return RetryDecision(
        state=JobState.QUEUED, reason=reason, losses=losses, retry_at=loss.now + pause if pause else None
    )


def _too_many(loss: Loss, losses: int) -> str:
    if losses == 1:
        return f"{loss.reason}; max_failures is {loss.max_failures}, so it is not tried again"
    return f"{losses} attempts in a row were lost without progress, and max_failures is {loss.max_failures}; the last: {loss.reason}"
