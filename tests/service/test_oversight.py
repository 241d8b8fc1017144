"""What is done about an attempt in each place where the chain can break."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from surefoot.spec import JobState
from surefoot_service.cluster.jobs_api import RayJob, RayStatus
from surefoot_service.policy.attempts import Action, Facts, Patience, decide

NOW = datetime(2026, 1, 1, 12, 0, tzinfo=UTC)
PATIENCE = Patience()


def ago(seconds: float) -> datetime:
    return NOW - timedelta(seconds=seconds)


def launcher(status: RayStatus, message: str = "") -> RayJob:
    return RayJob(status=status, message=message)


NEW = Facts(
    state=JobState.STARTING,
    now=NOW,
    ended_at=None,
    cancel_at=None,
    submitted=False,
    claimed_at=None,
    spoke_at=None,
    heard_at=None,
    same_session=True,
    launcher=None,
)
SUBMITTED = replace(NEW, submitted=True, launcher=launcher(RayStatus.RUNNING))
CLAIMED = replace(SUBMITTED, claimed_at=ago(10))
RUNNING = replace(CLAIMED, state=JobState.RUNNING, spoke_at=ago(9), heard_at=ago(1), launcher=None)
ENDED = replace(RUNNING, state=JobState.SUCCEEDED, ended_at=ago(5))

CASES: dict[str, tuple[Facts, Action, JobState | None, str]] = {
    "new": (NEW, Action.SUBMIT, None, ""),
    "submitted": (SUBMITTED, Action.WAIT, None, ""),
    "pending": (replace(SUBMITTED, launcher=launcher(RayStatus.PENDING)), Action.WAIT, None, ""),
    "unknown to Ray": (replace(SUBMITTED, launcher=None), Action.CONDEMN, JobState.QUEUED, "no longer knows"),
    "launcher failed": (
        replace(SUBMITTED, launcher=launcher(RayStatus.FAILED, "exit code 1")),
        Action.CONDEMN,
        JobState.QUEUED,
        "its launcher failed: exit code 1",
    ),
    "launcher stopped": (
        replace(CLAIMED, launcher=launcher(RayStatus.STOPPED)),
        Action.CONDEMN,
        JobState.QUEUED,
        "failed",
    ),
    "launcher ended unclaimed": (
        replace(SUBMITTED, launcher=launcher(RayStatus.SUCCEEDED)),
        Action.CONDEMN,
        JobState.QUEUED,
        "without claiming",
    ),
    "first word awaited": (replace(CLAIMED, launcher=launcher(RayStatus.SUCCEEDED)), Action.WAIT, None, ""),
    "first word never came": (
        replace(CLAIMED, claimed_at=ago(121), launcher=launcher(RayStatus.SUCCEEDED)),
        Action.CONDEMN,
        JobState.QUEUED,
        "never said a word",
    ),
    "running": (RUNNING, Action.WAIT, None, ""),
    "supervisor dead": (
        replace(RUNNING, supervisor_death="its node died"),
        Action.CONDEMN,
        JobState.QUEUED,
        "its supervisor is dead: its node died",
    ),
    "supervisor dead before its first word": (
        replace(CLAIMED, supervisor_death="killed"),
        Action.CONDEMN,
        JobState.QUEUED,
        "is dead: killed",
    ),
    "cancelling, supervisor dead": (
        replace(RUNNING, cancel_at=ago(1), supervisor_death="killed"),
        Action.CONDEMN,
        JobState.CANCELLED,
        "cancelled; its supervisor is dead",
    ),
    "pausing before the claim": (
        replace(SUBMITTED, state=JobState.PAUSING),
        Action.CONDEMN,
        JobState.PAUSED,
        "paused before it started",
    ),
    "pausing": (replace(RUNNING, state=JobState.PAUSING), Action.WAIT, None, ""),
    "pausing, silent": (
        replace(RUNNING, state=JobState.PAUSING, heard_at=ago(601)),
        Action.CONDEMN,
        JobState.QUEUED,
        "said nothing",
    ),
    "paused": (replace(RUNNING, state=JobState.PAUSED), Action.FORGET, None, ""),
    "paused, launcher not yet": (
        replace(RUNNING, state=JobState.PAUSED, launcher=launcher(RayStatus.RUNNING)),
        Action.WAIT,
        None,
        "",
    ),
    "paused, launcher never": (
        replace(RUNNING, state=JobState.PAUSED, heard_at=ago(61), launcher=launcher(RayStatus.RUNNING)),
        Action.CONDEMN,
        None,
        "did not end",
    ),
    "paused, silent": (replace(RUNNING, state=JobState.PAUSED, heard_at=ago(6001)), Action.FORGET, None, ""),
    "resumed": (replace(RUNNING, state=JobState.QUEUED), Action.FORGET, None, ""),
    "cluster gone after a pause": (
        replace(RUNNING, state=JobState.PAUSED, same_session=False),
        Action.FORGET,
        None,
        "",
    ),
    "running, launcher failed": (replace(RUNNING, launcher=launcher(RayStatus.FAILED)), Action.WAIT, None, ""),
    "silent": (replace(RUNNING, heard_at=ago(601)), Action.CONDEMN, JobState.QUEUED, "nothing since 11:49:59"),
    "cancel before the claim": (
        replace(SUBMITTED, cancel_at=ago(0)),
        Action.CONDEMN,
        JobState.CANCELLED,
        "before it started",
    ),
    "cancel awaited": (replace(RUNNING, cancel_at=ago(29)), Action.WAIT, None, ""),
    "cancel not confirmed": (replace(RUNNING, cancel_at=ago(31)), Action.CONDEMN, JobState.CANCELLED, "within 30 s"),
    "cancel of a claimed one not confirmed": (
        replace(CLAIMED, cancel_at=ago(31)),
        Action.CONDEMN,
        JobState.CANCELLED,
        "30 s",
    ),
    "cluster gone": (replace(RUNNING, same_session=False), Action.CONDEMN, JobState.QUEUED, "is gone"),
    "cluster gone, cancelling": (
        replace(RUNNING, same_session=False, cancel_at=ago(1)),
        Action.CONDEMN,
        JobState.CANCELLED,
        "is gone",
    ),
    "cluster gone after the end": (replace(ENDED, same_session=False), Action.FORGET, None, ""),
    "ended": (replace(ENDED, launcher=launcher(RayStatus.SUCCEEDED)), Action.FORGET, None, ""),
    "ended, launcher unknown": (ENDED, Action.FORGET, None, ""),
    "ended, launcher not yet": (replace(ENDED, launcher=launcher(RayStatus.RUNNING)), Action.WAIT, None, ""),
    "ended, launcher never": (
        replace(ENDED, ended_at=ago(61), launcher=launcher(RayStatus.RUNNING)),
        Action.CONDEMN,
        None,
        "did not end",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_judgement(case: str) -> None:
    facts, action, verdict, reason = CASES[case]
    found = decide(facts, PATIENCE)
    assert (found.action, found.verdict) == (action, verdict)
    assert reason in found.reason
    assert bool(found.reason) is bool(reason)
