"""Pause, resume, checkpoints on demand and faults: what they become in the store, and what a supervisor is told of them."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from surefoot.events import EventKind
from surefoot.spec import JobState
from surefoot.views import JobView
from surefoot_service.parts import Service

from .fake_ray import FakeRay
from .helpers import Attempt, make_event, make_row, until
from .test_reconciler import launched, running, state


async def post(client: httpx.AsyncClient, job: str, what: str, **body: Any) -> httpx.Response:
    return await client.post(f"/v1/jobs/{job}/{what}", json=body or None)


async def see(service: Service, job: str) -> JobView:
    return await until(service, job, lambda _: True)


async def kinds(attempt: Attempt, after: int = 0) -> list[str]:
    return [c["kind"] for c in (await attempt.commands(after)).json()["commands"]]


# ---- pause and resume


async def test_a_queued_job_is_paused_at_once_and_resumed(client: httpx.AsyncClient, job: str) -> None:
    paused = (await post(client, job, "pause")).json()
    assert (paused["state"], paused["reason"]) == ("paused", "paused while queued")
    assert (await post(client, job, "pause")).json() == paused
    resumed = (await post(client, job, "resume")).json()
    assert (resumed["state"], resumed["reason"]) == ("queued", "resumed")
    assert (await post(client, job, "resume")).json() == resumed


async def test_a_running_job_pauses_by_its_supervisor(
    client: httpx.AsyncClient, service: Service, attempt: Attempt
) -> None:
    await attempt.uplink(events=[state(1, "running"), make_event(2, EventKind.GENERATION, generation=1, trainers=2)])
    assert (await post(client, attempt.job, "pause")).json()["state"] == "pausing"
    assert (await post(client, attempt.job, "pause")).status_code == 200
    assert await kinds(attempt) == ["pause"]  # asked twice, told once
    # losses on the way to the boundary are no news of the job's
    told = ["pausing", "recovering", "running"]
    await attempt.uplink(events=[state(n, to) for n, to in enumerate(told, 3)])
    assert (await see(service, attempt.job)).state is JobState.PAUSING
    refused = await post(client, attempt.job, "resume")
    assert (refused.status_code, refused.json()["detail"]) == (
        409,
        f"job {attempt.job} is still pausing: resume it once it is paused",
    )
    await attempt.uplink(events=[state(6, "paused")], rows=[make_row(0)])
    paused = await see(service, attempt.job)
    assert (paused.state, paused.trainers, paused.ended_at) == (JobState.PAUSED, 0, None)


async def test_the_end_may_come_before_the_pause(client: httpx.AsyncClient, service: Service, attempt: Attempt) -> None:
    await attempt.uplink(events=[state(1, "running")])
    await post(client, attempt.job, "pause")
    await attempt.uplink(events=[state(2, "succeeded")])
    assert (await see(service, attempt.job)).state is JobState.SUCCEEDED


async def test_a_pause_that_was_not_asked_for_here_is_taken_as_told(service: Service, attempt: Attempt) -> None:
    await attempt.uplink(events=[state(1, "running"), state(2, "paused")])
    assert (await see(service, attempt.job)).state is JobState.PAUSED


async def test_a_supervisor_does_not_queue_a_job(service: Service, attempt: Attempt) -> None:
    await attempt.uplink(events=[state(1, "running")])
    assert (await attempt.uplink(events=[state(2, "queued")])).status_code == 422
    assert (await see(service, attempt.job)).state is JobState.RUNNING


async def test_a_resumed_job_goes_on_in_another_attempt(
    service: Service, fake: FakeRay, client: httpx.AsyncClient, anonymous: httpx.AsyncClient, job: str
) -> None:
    async with running(service, fake):
        first = await launched(fake, anonymous, job)
        await first.claim()
        await first.uplink(events=[state(1, "running")])
        await post(client, job, "pause")
        await first.uplink(events=[state(2, "paused")], rows=[make_row(0)])
        fake.end(f"surefoot-{job}-1", "SUCCEEDED")
        await until(service, job, lambda v: v.state is JobState.PAUSED)
        assert (await post(client, job, "resume")).json()["state"] == "queued"
        # what the first attempt may still say does not pause the job again
        assert (await first.uplink(events=[state(3, "paused")])).status_code == 410
        second = await launched(fake, anonymous, job, 2)
        assert (await second.claim()).json()["rows_below"] == 1
        assert await kinds(second) == []  # it is not asked to pause


async def test_a_pause_before_the_claim_leaves_nothing_on_the_cluster(
    service: Service, fake: FakeRay, client: httpx.AsyncClient, anonymous: httpx.AsyncClient, job: str
) -> None:
    async with running(service, fake):
        attempt = await launched(fake, anonymous, job)
        assert (await post(client, job, "pause")).json()["state"] == "pausing"
        assert (await attempt.claim()).status_code == 410
        paused = await until(service, job, lambda v: v.state is JobState.PAUSED)
        assert paused.reason == "paused before it started"
        assert fake.stopped == [f"surefoot-{job}-1"]


async def test_cancel_wins_over_pause(client: httpx.AsyncClient, service: Service, attempt: Attempt) -> None:
    await attempt.uplink(events=[state(1, "running")])
    await post(client, attempt.job, "pause")
    await post(client, attempt.job, "cancel")
    assert await kinds(attempt) == ["pause", "cancel"]
    assert (await post(client, attempt.job, "pause")).status_code == 409
    await attempt.uplink(events=[state(2, "cancelled")])
    assert (await see(service, attempt.job)).state is JobState.CANCELLED


async def test_a_paused_job_is_cancelled_at_once(client: httpx.AsyncClient, job: str) -> None:
    await post(client, job, "pause")
    cancelled = (await post(client, job, "cancel")).json()
    assert (cancelled["state"], cancelled["reason"]) == ("cancelled", "cancelled while paused")
    for what in ("pause", "resume", "checkpoint"):
        refused = await post(client, job, what)
        assert (refused.status_code, f"job {job} is cancelled" in refused.json()["detail"]) == (409, True)


# ---- checkpoints and faults on demand


async def test_only_a_job_that_trains_is_saved_or_broken(client: httpx.AsyncClient, job: str) -> None:
    saved = await post(client, job, "checkpoint")
    assert (saved.status_code, saved.json()["detail"]) == (409, f"job {job} is queued: there is nothing to save")
    broken = await post(client, job, "faults", kind="trainer")
    assert (broken.status_code, broken.json()["detail"]) == (409, f"job {job} is queued: there is nothing to break")


async def test_faults_are_told_once_and_states_again_to_a_restarted_supervisor(
    client: httpx.AsyncClient, attempt: Attempt
) -> None:
    await attempt.uplink(events=[state(1, "running")])
    await client.post(f"/v1/jobs/{attempt.job}/resize", json={"trainers": 3})
    assert (await post(client, attempt.job, "checkpoint")).status_code == 200
    for kind in ("supervisor", "trainer"):
        assert (await post(client, attempt.job, "faults", kind=kind)).status_code == 202
    first = (await attempt.commands()).json()["commands"]
    assert [(c["kind"], c["fault"]) for c in first] == [
        ("resize", None),
        ("checkpoint", None),
        ("fault", "supervisor"),
        ("fault", "trainer"),
    ]
    # it killed itself, and Ray has restarted it
    assert await kinds(attempt) == ["resize", "checkpoint"]
    await post(client, attempt.job, "faults", kind="node", leave=0)
    last = (await attempt.commands(after=4)).json()["commands"]
    assert [(c["kind"], c["fault"], c["trainers"]) for c in (*first[2:], *last)] == [
        ("fault", "supervisor", 1),
        ("fault", "trainer", 1),
        ("fault", "node", 0),
    ]
    assert (await post(client, attempt.job, "faults", kind="node", leave=-1)).status_code == 422


@pytest.mark.parametrize("kind", ["meteor", "", 3])
async def test_a_fault_that_does_not_exist(kind: object, client: httpx.AsyncClient, attempt: Attempt) -> None:
    refused = await client.post(f"/v1/jobs/{attempt.job}/faults", json={"kind": kind})
    assert refused.status_code == 422
    assert refused.json()["errors"][0]["field"] == "body.kind"
