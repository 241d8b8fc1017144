"""A step has one result: whoever tells another fails the job, and both who told it are named."""

from __future__ import annotations

import httpx

from surefoot.spec import JobState
from surefoot.views import JobView
from surefoot_service.parts import Service
from surefoot_service.store import attempts, jobs

from .fake_ray import FakeRay
from .helpers import Attempt, make_row, until
from .test_reconciler import launched, running, state
from .test_retries import replace_cluster


async def view(service: Service, job: str) -> JobView:
    return await service.database.read(jobs.see, job)


async def test_a_forged_row_does_not_win_over_the_true_one(
    client: httpx.AsyncClient, service: Service, attempt: Attempt
) -> None:
    await attempt.uplink(events=[state(1, "running")], rows=[make_row(0), make_row(5, "f" * 32)])
    taken = await attempt.uplink(rows=[make_row(n, "a" * 32) for n in (4, 5)])
    assert taken.status_code == 200
    failed = await view(service, attempt.job)
    assert failed.state is JobState.FAILED
    assert failed.reason.startswith(f"step 5 was told twice with different results: {'f' * 32}, then {'a' * 32}; ")
    assert f"attempt {attempt.name} told both" in failed.reason
    # nothing that it says counts any more, and the stored row is not changed under its readers
    assert (await attempt.uplink(rows=[make_row(6)])).status_code == 410
    rows = (await client.get(f"/v1/jobs/{attempt.job}/ledger")).json()["rows"]
    assert [r["result"]["digest"][0] for r in rows if r["result"]["step"] == 5] == ["f"]


async def test_two_attempts_that_disagree_are_both_named_and_cleaned_up(
    service: Service, fake: FakeRay, anonymous: httpx.AsyncClient, client: httpx.AsyncClient, job: str
) -> None:
    async with running(service, fake):
        first = await launched(fake, anonymous, job)
        await first.claim()
        await first.uplink(events=[state(1, "running")], rows=[make_row(0), make_row(1, "a" * 32)])
        replace_cluster(fake, service, "session_2")
        second = await launched(fake, anonymous, job, 2)
        await second.claim()
        # the first cannot correct the second, nor the other way round
        assert (await first.uplink(rows=[make_row(1, "b" * 32)])).status_code == 410
        await second.uplink(rows=[make_row(1, "b" * 32)])
        failed = await until(service, job, lambda v: v.ended)
        assert failed.state is JobState.FAILED
        for part in (
            "step 1",
            "a" * 32,
            "b" * 32,
            f"attempt {first.name} told the first",
            f"attempt {second.name} the second",
        ):
            assert part in failed.reason
        # what runs of it is taken off the cluster
        await fake.submitted(f"surefoot-{job}-2-cleanup")
    told = (await client.get(f"/v1/jobs/{job}/events")).json()["events"]
    warned = [e["data"]["message"] for e in told if e["kind"] == "warning"]
    assert len(warned) == 1
    assert first.name in warned[0]
    assert second.name in warned[0]


async def test_two_results_in_one_batch(service: Service, attempt: Attempt) -> None:
    await attempt.uplink(events=[state(1, "running")], rows=[make_row(0, "a" * 32), make_row(0, "b" * 32)])
    assert (await view(service, attempt.job)).state is JobState.FAILED


async def test_logged_values_are_part_of_the_result(service: Service, attempt: Attempt) -> None:
    await attempt.uplink(rows=[make_row(0, loss=0.5)])
    await attempt.uplink(rows=[make_row(0, loss=0.25)])
    failed = await view(service, attempt.job)
    assert failed.state is JobState.FAILED
    assert '"loss":0.5' in failed.reason
    assert '"loss":0.25' in failed.reason


async def test_the_same_row_again_is_no_contradiction(service: Service, attempt: Attempt) -> None:
    for seconds in (0.1, 0.2):
        row = make_row(0, loss=float("nan"))
        told = row.circumstances.model_copy(update={"seconds": seconds, "generation": 2})
        await attempt.uplink(rows=[row.model_copy(update={"circumstances": told})])
    assert (await view(service, attempt.job)).state is JobState.STARTING


async def test_a_fenced_attempt_contradicts_nobody(service: Service, attempt: Attempt) -> None:
    await attempt.uplink(rows=[make_row(0)])
    await service.database.write(attempts.fence, attempt.name, service.now())
    assert (await attempt.uplink(rows=[make_row(0, "b" * 32)])).status_code == 410
    assert (await view(service, attempt.job)).state is JobState.STARTING
