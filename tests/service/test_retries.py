"""What becomes of a job whose attempt is lost: the decision, and the loop that carries it out."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from surefoot.events import EventKind
from surefoot.spec import JobState
from surefoot.views import Claimed, JobView
from surefoot_service.parts import Service
from surefoot_service.policy.attempts import Patience
from surefoot_service.policy.retries import Loss, after_loss
from surefoot_service.store import overview
from surefoot_service.wakeups import RECONCILER

from .fake_ray import FakeRay
from .helpers import LIMIT_S, Attempt, make_event, make_row, until
from .test_reconciler import launched, running, state

NOW = datetime(2026, 1, 1, 12, 0, tzinfo=UTC)
LOSS = Loss(
    state=JobState.RUNNING,
    cancelling=False,
    reason="the cluster is gone",
    losses=0,
    progressed=False,
    max_failures=10,
    now=NOW,
)


# ---- the decision


def test_the_pauses_between_attempts_without_progress_grow_to_a_minute() -> None:
    pauses: list[float] = []
    loss = replace(LOSS, max_failures=100)
    for _ in range(9):
        sequel = after_loss(loss)
        assert sequel.state is JobState.QUEUED
        assert sequel.retry_at is not None
        pauses.append((sequel.retry_at - NOW).total_seconds())
        loss = replace(loss, losses=sequel.losses)
    assert pauses == [1, 2, 4, 8, 16, 32, 60, 60, 60]
    assert after_loss(replace(LOSS, losses=10_000, max_failures=20_000)).retry_at == NOW + timedelta(seconds=60)


def test_progress_resets_the_count_and_is_tried_again_at_once() -> None:
    sequel = after_loss(replace(LOSS, losses=10, progressed=True))
    assert (sequel.state, sequel.losses, sequel.retry_at) == (JobState.QUEUED, 1, None)
    assert sequel.reason == "the cluster is gone; it is tried again at once"


def test_max_failures_are_borne_and_one_more_is_not() -> None:
    borne = after_loss(replace(LOSS, losses=2, max_failures=3))
    assert (borne.state, borne.losses) == (JobState.QUEUED, 3)
    assert borne.reason == "the cluster is gone; it is tried again at 12:00:04 UTC"
    failed = after_loss(replace(LOSS, losses=3, max_failures=3))
    assert (failed.state, failed.retry_at) == (JobState.FAILED, None)
    assert failed.reason == (
        "4 attempts in a row were lost without progress, and max_failures is 3; the last: the cluster is gone"
    )


def test_what_was_asked_for_comes_before_another_attempt() -> None:
    cancelled = after_loss(replace(LOSS, cancelling=True, state=JobState.PAUSING, max_failures=0))
    assert (cancelled.state, cancelled.reason) == (JobState.CANCELLED, "cancelled; the cluster is gone")
    paused = after_loss(replace(LOSS, state=JobState.PAUSING, max_failures=0))
    assert paused.state is JobState.PAUSED
    assert paused.retry_at is None


# ---- the loop


async def begun(fake: FakeRay, anonymous: httpx.AsyncClient, job: str, n: int = 1) -> Attempt:
    """The job's n-th attempt, once its supervisor has spoken."""
    attempt = await launched(fake, anonymous, job, n)
    assert (await attempt.claim()).status_code == 200
    source = f"supervisor-{n}"
    assert (await attempt.uplink(events=[make_event(1, EventKind.STATE, source, state="running")])).status_code == 200
    return attempt


def replace_cluster(fake: FakeRay, service: Service, session: str) -> None:
    fake.session, fake.submissions = session, {}
    service.wakeups.wake(RECONCILER)


async def test_a_lost_cluster_costs_an_attempt_and_not_the_job(
    service: Service, fake: FakeRay, client: httpx.AsyncClient, anonymous: httpx.AsyncClient, job: str
) -> None:
    async with running(service, fake):
        first = await begun(fake, anonymous, job)
        generation = make_event(2, EventKind.GENERATION, "supervisor-1", generation=7, trainers=2, num_steps=3)
        two = f"{service.settings.checkpoint_place}/{job}/step-2"
        saved = make_event(3, EventKind.CHECKPOINT, "supervisor-1", url=two, step=2, bytes=9, seconds=0.1)
        await first.uplink(events=[generation, saved], rows=[make_row(0), make_row(1)])
        replace_cluster(fake, service, "session_2")
        second = await launched(fake, anonymous, job, 2)
        told = [
            e["data"] for e in (await client.get(f"/v1/jobs/{job}/events")).json()["events"] if e["kind"] == "state"
        ]
        assert {
            "state": "queued",
            "reason": "the Ray cluster it ran on is gone; it is tried again at once",
        } in told
        # what the first says no longer counts, and the second is told what is stored
        assert (await first.uplink(rows=[make_row(2)])).status_code == 410
        claimed = Claimed.model_validate((await second.claim()).json())
        assert claimed.rows_below == 2
        assert claimed.checkpoints.endswith(f"/data/checkpoints/{job}")
        # a row that is told again is the same row; generations begin again
        again = [make_event(n, k, "supervisor-2", **d) for n, (k, d) in enumerate(SECOND_LIFE, 1)]
        await second.uplink(events=again, rows=[make_row(1), make_row(2)])
        ended = await until(service, job, lambda v: v.state.ended)
        assert (ended.state, ended.steps_done, ended.generation, ended.attempts) == (JobState.SUCCEEDED, 3, 1, 2)
        assert (ended.checkpoint, ended.checkpoint_step) == (two, 2)
        kinds = [e["kind"] for e in (await client.get(f"/v1/jobs/{job}/events")).json()["events"]]
        assert "warning" not in kinds


SECOND_LIFE: list[tuple[EventKind, dict[str, Any]]] = [
    (EventKind.GENERATION, {"generation": 1, "trainers": ["t0"], "num_steps": 3}),
    (EventKind.STATE, {"state": "running"}),
    (EventKind.FINISHED, {"digest": "d" * 32}),
    (EventKind.STATE, {"state": "succeeded"}),
]


@pytest.mark.parametrize("spec_more", [{"max_failures": 1}])
async def test_losses_without_progress_in_a_row_fail_the_job_with_the_launchers_last_words(
    service: Service, fake: FakeRay, job: str
) -> None:
    async with running(service, fake):
        for n in (1, 2):
            await fake.submitted(f"surefoot-{job}-{n}")
            fake.end(f"surefoot-{job}-{n}", "FAILED", "exit code 1", logs=f"no torch in attempt {n}")
            service.wakeups.wake(RECONCILER)
        ended = await until(service, job, lambda v: v.state.ended)
    assert (ended.state, ended.attempts) == (JobState.FAILED, 2)
    assert ended.reason == (
        "2 attempts in a row were lost without progress, and max_failures is 1; the last: its launcher failed: exit code 1"
    )
    assert ended.traceback == "no torch in attempt 2"


@pytest.mark.parametrize("spec_more", [{"max_failures": 1}])
async def test_losses_with_progress_in_between_never_fail_a_job(
    service: Service, fake: FakeRay, anonymous: httpx.AsyncClient, job: str
) -> None:
    async with running(service, fake):
        for n in range(1, 5):
            attempt = await begun(fake, anonymous, job, n)
            assert (await attempt.uplink(rows=[make_row(n - 1)])).json()["rows_below"] == n
            replace_cluster(fake, service, f"session_{n + 1}")
        await fake.submitted(f"surefoot-{job}-5")


async def test_a_dead_supervisor_is_seen_at_once_and_cleaned_up_after(
    service: Service, fake: FakeRay, anonymous: httpx.AsyncClient, job: str
) -> None:
    async with running(service, fake):
        attempt = await begun(fake, anonymous, job)
        fake.end(f"surefoot-{job}-1", "SUCCEEDED")
        fake.dead[attempt.name] = "its node died"
        service.wakeups.wake(RECONCILER)
        clean_up = await fake.submitted(f"surefoot-{job}-1-cleanup")
        assert clean_up.env["SUREFOOT_ATTEMPT"] == attempt.name
        assert f"surefoot-{job}-2" not in fake.submissions  # not before the cluster is clean
        fake.end(f"surefoot-{job}-1-cleanup", "SUCCEEDED")
        waiting = await until(service, job, lambda v: v.state is JobState.QUEUED)
        assert waiting.reason.startswith("its supervisor is dead: its node died; it is tried again at ")
        await fake.submitted(f"surefoot-{job}-2")


async def test_a_cluster_that_does_not_answer_is_not_a_lost_attempt(
    service: Service, fake: FakeRay, anonymous: httpx.AsyncClient, job: str
) -> None:
    async with running(service, fake, Patience(silence=timedelta(0))):
        fake.down = 503
        attempt = await launched_while_down(fake, anonymous, service, job)
        service.wakeups.wake(RECONCILER)
        await until_unreachable(service)
        assert (await view(service, job)).state is JobState.RUNNING
        assert (await attempt.uplink(rows=[make_row(0)])).status_code == 200


async def launched_while_down(fake: FakeRay, anonymous: httpx.AsyncClient, service: Service, job: str) -> Attempt:
    fake.down = None
    attempt = await launched(fake, anonymous, job)
    assert (await attempt.claim()).status_code == 200
    fake.down = 503
    await attempt.uplink(events=[state(1, "running")])
    return attempt


async def until_unreachable(service: Service) -> None:
    async with asyncio.timeout(LIMIT_S):
        with service.wakeups.listen(RECONCILER) as wakeup:
            while service.cluster.reachable is not False:
                await wakeup.wait(0.05)


async def view(service: Service, job: str) -> JobView:
    return await until(service, job, lambda _: True)


async def wait_for_retry(service: Service, fake: FakeRay, job: str) -> None:
    """Have the first attempt fail, so that the job waits a second for the next."""
    await fake.submitted(f"surefoot-{job}-1")
    fake.end(f"surefoot-{job}-1", "FAILED", "exit code 1")
    service.wakeups.wake(RECONCILER)
    waiting = await until(service, job, lambda v: v.state is JobState.QUEUED and "tried again" in v.reason)
    assert waiting.reason.startswith("its launcher failed: exit code 1; it is tried again at ")


async def test_cancelled_while_it_waits_to_be_tried_again(
    service: Service, fake: FakeRay, client: httpx.AsyncClient, job: str
) -> None:
    async with running(service, fake):
        await wait_for_retry(service, fake, job)
        assert (await client.post(f"/v1/jobs/{job}/cancel")).json()["state"] == "cancelled"
        assert f"surefoot-{job}-2" not in fake.submissions


async def test_paused_while_it_waits_to_be_tried_again(
    service: Service, fake: FakeRay, client: httpx.AsyncClient, job: str
) -> None:
    async with running(service, fake):
        await wait_for_retry(service, fake, job)
        assert (await client.post(f"/v1/jobs/{job}/pause")).json()["state"] == "paused"
        found = await service.database.read(overview.look, service.now() + timedelta(hours=1))
        assert (found.queue, found.next_retry) == ((), None)
        assert (await client.post(f"/v1/jobs/{job}/resume")).json()["state"] == "queued"
        await fake.submitted(f"surefoot-{job}-2")


@pytest.mark.parametrize(("asked", "becomes"), [("pause", JobState.PAUSED), ("cancel", JobState.CANCELLED)])
async def test_what_was_asked_of_a_lost_attempt_is_honoured(
    asked: str,
    becomes: JobState,
    service: Service,
    fake: FakeRay,
    client: httpx.AsyncClient,
    anonymous: httpx.AsyncClient,
    job: str,
) -> None:
    async with running(service, fake):
        await begun(fake, anonymous, job)
        await client.post(f"/v1/jobs/{job}/{asked}")
        replace_cluster(fake, service, "session_2")
        found = await until(service, job, lambda v: v.state is becomes)
        assert "is gone" in found.reason
        assert fake.submissions == {}


async def test_another_attempt_is_told_what_is_wanted_now_and_no_command_of_before(
    service: Service, fake: FakeRay, client: httpx.AsyncClient, anonymous: httpx.AsyncClient, job: str
) -> None:
    async with running(service, fake):
        first = await begun(fake, anonymous, job)
        await client.post(f"/v1/jobs/{job}/resize", json={"trainers": 3})
        await client.post(f"/v1/jobs/{job}/checkpoint")
        assert [c["kind"] for c in (await first.commands()).json()["commands"]] == ["resize", "checkpoint"]
        replace_cluster(fake, service, "session_2")
        second = await launched(fake, anonymous, job, 2)
        claimed = Claimed.model_validate((await second.claim()).json())
        assert claimed.spec.trainers == 3
        assert (await second.commands()).json()["commands"] == []
        await client.post(f"/v1/jobs/{job}/resize", json={"trainers": 1})
        assert [(c["n"], c["trainers"]) for c in (await second.commands()).json()["commands"]] == [(3, 1)]


async def test_cancelled_before_a_later_attempt_started_says_how_far_the_job_had_come(
    service: Service, fake: FakeRay, client: httpx.AsyncClient, anonymous: httpx.AsyncClient, job: str
) -> None:
    async with running(service, fake):
        first = await begun(fake, anonymous, job)
        await first.uplink(rows=[make_row(n) for n in range(161)])
        replace_cluster(fake, service, "session_2")
        await fake.submitted(f"surefoot-{job}-2")  # and not claimed
        await client.post(f"/v1/jobs/{job}/cancel")
        ended = await until(service, job, lambda v: v.state.ended)
        assert (ended.state, ended.steps_done) == (JobState.CANCELLED, 161)
        assert ended.reason == "cancelled before attempt 2 started, after 161 steps"


async def test_cancelled_at_rest_says_how_far_the_job_had_come(
    service: Service, client: httpx.AsyncClient, attempt: Attempt
) -> None:
    await attempt.uplink(events=[state(1, "running"), state(2, "paused")], rows=[make_row(0)])
    cancelled = (await client.post(f"/v1/jobs/{attempt.job}/cancel")).json()
    assert (cancelled["state"], cancelled["reason"]) == ("cancelled", "cancelled while paused, after 1 step")
