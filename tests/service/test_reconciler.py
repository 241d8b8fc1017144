"""The loop over a cluster: jobs get on it, and off it again, whatever breaks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import httpx
import pytest

from surefoot.events import EventKind
from surefoot.spec import JobState
from surefoot_service.cluster.jobs_api import RayJobs
from surefoot_service.parts import Service
from surefoot_service.policy.attempts import Patience
from surefoot_service.reconciler.launch import Launch
from surefoot_service.reconciler.loop import Reconciler
from surefoot_service.store import attempts
from surefoot_service.wakeups import RECONCILER, Listener

from .fake_ray import TOKEN, FakeRay
from .helpers import LIMIT_S, ZIP, Attempt, make_event, make_row, make_zip, until


@asynccontextmanager
async def running(service: Service, fake: FakeRay, patience: Patience | None = None) -> AsyncIterator[None]:
    headers = {"Authorization": f"Bearer {TOKEN}"}
    transport = httpx.ASGITransport(fake.app())
    async with httpx.AsyncClient(transport=transport, base_url="http://ray", headers=headers) as client:
        launch = Launch(service=service, ray=RayJobs(client), python="python")
        task = asyncio.create_task(Reconciler(service, launch, patience).run())
        try:
            yield
        finally:
            assert not task.done()
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


@pytest.fixture
async def reconciler(service: Service, fake: FakeRay) -> AsyncIterator[None]:
    async with running(service, fake):
        yield


async def launched(fake: FakeRay, anonymous: httpx.AsyncClient, job: str, n: int = 1) -> Attempt:
    """Wait for the job's n-th launcher; return what it knows from its environment."""
    env = (await fake.submitted(f"surefoot-{job}-{n}")).env
    return Attempt(anonymous, job, env["SUREFOOT_ATTEMPT"], env["SUREFOOT_CLAIM"])


def state(n: int, to: str) -> Any:
    return make_event(n, EventKind.STATE, state=to)


@pytest.mark.usefixtures("reconciler")
async def test_a_job_from_the_queue_to_its_end(
    service: Service, fake: FakeRay, anonymous: httpx.AsyncClient, job: str
) -> None:
    attempt = await launched(fake, anonymous, job)
    submission = fake.submissions[f"surefoot-{job}-1"]
    assert submission.entrypoint == "python -P -m surefoot_actors.launch.launcher"
    assert set(submission.env) == {"SUREFOOT_URL", "SUREFOOT_ATTEMPT", "SUREFOOT_CLAIM"}
    assert list(fake.packages) == [f"surefoot_{(await until(service, job, lambda _: True)).spec.package}.zip"]
    assert (await attempt.claim()).status_code == 200
    await attempt.uplink(events=[state(1, "running")])
    fake.end(f"surefoot-{job}-1", "SUCCEEDED")
    await attempt.uplink(events=[make_event(2, EventKind.FINISHED, digest="d" * 32), state(3, "succeeded")])
    ended = await until(service, job, lambda v: v.state.ended)
    assert (ended.state, ended.digest) == (JobState.SUCCEEDED, "d" * 32)
    await until_forgotten(service, fake)
    # rows that the supervisor had not yet handed in are still taken
    assert (await attempt.uplink(rows=[make_row(0)])).json()["rows_below"] == 1


async def until_forgotten(service: Service, fake: FakeRay) -> None:
    async with asyncio.timeout(LIMIT_S):
        with service.wakeups.listen(RECONCILER) as wakeup:
            while fake.submissions:
                await wakeup.wait(0.1)


@pytest.mark.usefixtures("reconciler")
async def test_a_job_that_asks_for_too_much_says_so(
    service: Service, client: httpx.AsyncClient, spec: dict[str, Any]
) -> None:
    big = spec | {"trainers": 4, "min_trainers": 4, "resources": {"cpus": 2}}
    job = (await client.post("/v1/jobs", json=big)).json()["id"]
    waiting = await until(service, job, lambda v: bool(v.reason))
    assert (waiting.state, waiting.reason) == (
        JobState.QUEUED,
        "needs 4 trainers x 2 CPUs = 8 CPUs; the cluster has 4",
    )


GROUPS = {"gpu-spot": {"cpus": "4", "max_nodes": 2}}


@pytest.mark.parametrize("settings_more", [{"node_groups": GROUPS}])
async def test_with_no_node_but_the_head_jobs_start_where_the_autoscaler_could_add_enough(
    service: Service, fake: FakeRay, client: httpx.AsyncClient, anonymous: httpx.AsyncClient, spec: dict[str, Any]
) -> None:
    """A started job's pending trainers are what makes the autoscaler add nodes."""
    fake.nodes = [{}]
    first, second = [
        (await client.post("/v1/jobs", json=spec | {"trainers": 6, "min_trainers": 5})).json()["id"] for _ in range(2)
    ]
    big = (
        await client.post("/v1/jobs", json=spec | {"trainers": 8, "min_trainers": 8, "resources": {"cpus": 2}})
    ).json()
    async with running(service, fake):
        claimed = (await (await launched(fake, anonymous, first)).claim()).json()
        assert claimed["node_groups"]["gpu-spot"]["max_nodes"] == 2
        assert claimed["node_wait_s"] == 300
        waiting = await until(service, second, lambda v: bool(v.reason))
        assert waiting.reason == (
            "needs 5 trainers x 1 CPU = 5 CPUs; 0 of 0 CPUs are free; what the autoscaler could add is not enough: 2 of gpu-spot"
        )
        never = await until(service, big["id"], lambda v: bool(v.reason))
        assert never.reason == (
            "needs 8 trainers x 2 CPUs = 16 CPUs; the cluster has 0, and 8 with all that the autoscaler could add"
        )
        # what has been added is no longer to be added
        fake.nodes, fake.labels = [{}, {"CPU": 4.0}], {1: {"ray.io/node-group": "gpu-spot"}}
        service.wakeups.wake(RECONCILER)
        waiting = await until(service, second, lambda v: "of 4 CPUs" in v.reason)
        assert waiting.reason.endswith(
            "0 of 4 CPUs are free; what the autoscaler could add is not enough: 1 of gpu-spot"
        )


@pytest.mark.usefixtures("reconciler")
async def test_a_job_starts_when_another_has_made_room(
    service: Service, fake: FakeRay, client: httpx.AsyncClient, anonymous: httpx.AsyncClient, spec: dict[str, Any]
) -> None:
    whole = spec | {"trainers": 4, "min_trainers": 4}
    first, second = [(await client.post("/v1/jobs", json=whole)).json()["id"] for _ in range(2)]
    attempt = await launched(fake, anonymous, first)
    waiting = await until(service, second, lambda v: "are free" in v.reason)
    assert waiting.reason == "needs 4 trainers x 1 CPU = 4 CPUs; 0 of 4 CPUs are free"
    await attempt.claim()
    await attempt.uplink(events=[state(1, "running"), state(2, "succeeded")])
    fake.end(f"surefoot-{first}-1", "SUCCEEDED")
    await fake.submitted(f"surefoot-{second}-1")


@pytest.mark.usefixtures("reconciler")
@pytest.mark.parametrize("spec_more", [{"max_failures": 0}])
async def test_a_launcher_that_fails_for_the_last_time_shows_its_log(service: Service, fake: FakeRay, job: str) -> None:
    await fake.submitted(f"surefoot-{job}-1")
    fake.end(f"surefoot-{job}-1", "FAILED", "exit code 1", logs="No module named surefoot_actors")
    ended = await until(service, job, lambda v: v.state.ended)
    assert (ended.state, ended.reason) == (
        JobState.FAILED,
        "its launcher failed: exit code 1; max_failures is 0, so it is not tried again",
    )
    assert ended.traceback == "No module named surefoot_actors"


@pytest.mark.usefixtures("reconciler")
async def test_cancel_before_the_claim_needs_no_clean_up(
    service: Service, fake: FakeRay, client: httpx.AsyncClient, anonymous: httpx.AsyncClient, job: str
) -> None:
    attempt = await launched(fake, anonymous, job)
    await client.post(f"/v1/jobs/{job}/cancel")
    ended = await until(service, job, lambda v: v.state.ended)
    assert (ended.state, ended.reason) == (JobState.CANCELLED, "cancelled before it started")
    assert fake.stopped == [f"surefoot-{job}-1"]
    assert (await attempt.claim()).status_code == 410


async def test_cancel_that_the_supervisor_confirms(
    service: Service, fake: FakeRay, client: httpx.AsyncClient, anonymous: httpx.AsyncClient, job: str
) -> None:
    async with running(service, fake):
        attempt = await launched(fake, anonymous, job)
        await attempt.claim()
        await attempt.uplink(events=[state(1, "running")])
        await client.post(f"/v1/jobs/{job}/cancel")
        assert [c["kind"] for c in (await attempt.commands(wait_s=30)).json()["commands"]] == ["cancel"]
        await attempt.uplink(events=[state(2, "cancelled")])
        ended = await until(service, job, lambda v: v.state.ended)
        assert ended.state is JobState.CANCELLED
        assert f"surefoot-{job}-1-cleanup" not in fake.submissions


@pytest.mark.parametrize("clean_up", ["SUCCEEDED", "FAILED"])
async def test_cancel_that_nobody_confirms_is_cleaned_up(
    clean_up: str, service: Service, fake: FakeRay, client: httpx.AsyncClient, anonymous: httpx.AsyncClient, job: str
) -> None:
    async with running(service, fake, Patience(cancel=timedelta(0))):
        attempt = await launched(fake, anonymous, job)
        await attempt.claim()
        await attempt.uplink(events=[state(1, "running")])
        await client.post(f"/v1/jobs/{job}/cancel")
        name = f"surefoot-{job}-1-cleanup"
        submission = await fake.submitted(name)
        assert submission.entrypoint == "python -P -m surefoot_actors.launch.cleanup"
        assert submission.env["SUREFOOT_ATTEMPT"] == attempt.name
        assert "SUREFOOT_CLAIM" not in submission.env
        # fenced already: what it says no longer counts
        assert (await attempt.uplink(events=[state(2, "succeeded")])).status_code == 410
        fake.end(name, clean_up, "exit code 1")
        ended = await until(service, job, lambda v: v.state.ended)
        assert ended.state is JobState.CANCELLED
        assert ("actors may be left" in ended.reason) is (clean_up == "FAILED")


async def test_a_cluster_that_comes_late(service: Service, fake: FakeRay, job: str) -> None:
    fake.down = 503
    async with running(service, fake):
        waiting = await until(service, job, lambda v: bool(v.reason))
        assert waiting.reason == "the Ray cluster answers 503: down"
        assert service.cluster.reachable is False
        fake.down = None
        await fake.submitted(f"surefoot-{job}-1")
        assert service.cluster.reachable


async def test_a_cluster_without_nodes_yet(service: Service, fake: FakeRay, job: str) -> None:
    fake.nodes = []
    async with running(service, fake):
        assert (await until(service, job, lambda v: bool(v.reason))).reason == "the Ray cluster has no live node yet"


async def test_a_submission_refused_for_good(service: Service, fake: FakeRay, job: str) -> None:
    fake.refuse = [400]
    async with running(service, fake):
        ended = await until(service, job, lambda v: v.state.ended)
        assert ended.state is JobState.FAILED
        assert "ValueError: no" in ended.reason


@pytest.mark.parametrize("lost_answer", [False, True])
async def test_a_restart_between_submission_and_note_submits_nothing_twice(
    lost_answer: bool, service: Service, fake: FakeRay, anonymous: httpx.AsyncClient, job: str
) -> None:
    fake.refuse = [200] if lost_answer else []
    async with running(service, fake):
        await fake.submitted(f"surefoot-{job}-1")
    async with running(service, fake):
        attempt = await launched(fake, anonymous, job)
        await until(service, job, lambda v: v.reason == "the launcher is on the cluster")
        assert (await attempt.claim()).status_code == 200
        assert list(fake.submissions) == [f"surefoot-{job}-1"]


async def test_the_loop_rests_when_there_is_nothing_to_do(
    service: Service, fake: FakeRay, monkeypatch: pytest.MonkeyPatch
) -> None:
    rests: asyncio.Queue[float | None] = asyncio.Queue()
    wait = Listener.wait

    async def noted(wakeup: Listener, timeout_s: float | None) -> bool:
        if wakeup in service.wakeups._listeners[RECONCILER]:  # others wait for theirs
            rests.put_nowait(timeout_s)
        return await wait(wakeup, timeout_s)

    monkeypatch.setattr(Listener, "wait", noted)
    async with running(service, fake), asyncio.timeout(LIMIT_S):
        assert await rests.get() is None  # until it is woken
        service.wakeups.wake(RECONCILER)
        assert await rests.get() is None  # again, having looked
        assert service.cluster.reachable is None  # it was not even asked


async def test_what_goes_wrong_with_one_job_holds_up_no_other(
    service: Service, fake: FakeRay, client: httpx.AsyncClient, spec: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    bad, good = [(await client.post("/v1/jobs", json=spec | {"trainers": 1})).json()["id"] for _ in range(2)]
    make, tried = attempts.make, asyncio.Event()

    def fails_for_one(session: Any, job: str, **more: Any) -> Any:
        if job == bad:
            service_loop.call_soon_threadsafe(tried.set)
            raise RuntimeError("whatever it is")
        return make(session, job, **more)

    service_loop = asyncio.get_running_loop()
    monkeypatch.setattr(attempts, "make", fails_for_one)
    async with running(service, fake):
        await fake.submitted(f"surefoot-{good}-1")
        assert tried.is_set()
        # and it can still be ended
        assert (await client.post(f"/v1/jobs/{bad}/cancel")).json()["state"] == "cancelled"


async def test_an_attempt_that_cannot_be_overseen_holds_up_no_other(
    service: Service, fake: FakeRay, client: httpx.AsyncClient, spec: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    bad, good = [(await client.post("/v1/jobs", json=spec | {"trainers": 1})).json()["id"] for _ in range(2)]
    submit = Launch.submit

    async def fails_for_one(launch: Launch, watched: Any) -> None:
        if watched.job.id == bad:
            raise RuntimeError("whatever it is")
        await submit(launch, watched)

    monkeypatch.setattr(Launch, "submit", fails_for_one)
    async with running(service, fake):
        noted = await until(service, good, lambda v: v.reason == "the launcher is on the cluster")
        assert noted.state is JobState.STARTING


async def test_a_package_that_is_gone_before_the_launch_fails_its_job_and_no_other(
    service: Service, fake: FakeRay, client: httpx.AsyncClient, job: str, spec: dict[str, Any]
) -> None:
    content = make_zip({"train.py": "def train(run):\n    return\n"})
    other = (await client.post("/v1/packages", content=content, headers=ZIP)).json()["package"]
    whole = (await client.post("/v1/jobs", json=spec | {"package": other, "trainers": 1})).json()["id"]
    service.packages.path(spec["package"]).unlink()
    async with running(service, fake):
        lost = await until(service, job, lambda v: v.state.ended)
        assert lost.state is JobState.FAILED
        assert "is no longer whole on the control plane's disk; submit the job again" in lost.reason
        assert await fake.submitted(f"surefoot-{whole}-1")


async def test_one_that_ray_still_has_is_launched(
    service: Service, fake: FakeRay, job: str, spec: dict[str, Any]
) -> None:
    fake.packages[f"surefoot_{spec['package']}.zip"] = b"PK"
    service.packages.path(spec["package"]).unlink()
    async with running(service, fake):
        assert await fake.submitted(f"surefoot-{job}-1")
