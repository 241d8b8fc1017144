"""Jobs that each hold a part of what either needs: one gives back, the other starts, and nobody is started on the same hope again."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from surefoot.events import EventKind
from surefoot.spec import JobState, Resources
from surefoot_service.parts import Service
from surefoot_service.scheduler.capacity import Addable, Capacity, NodeSize
from surefoot_service.scheduler.standstill import Starting, gives_back, in_vain, without_hopes
from surefoot_service.wakeups import RECONCILER

from .fake_ray import FakeRay
from .helpers import make_event, until
from .test_reconciler import launched, running

NOW, PATIENCE = datetime(2026, 1, 1, tzinfo=UTC), timedelta(minutes=30)
SMALL, GPU = Resources(cpus=1), Resources(cpus=1, gpus=1)
CAPACITY = Capacity(
    nodes=(NodeSize(cpus=4, gpus=0),), addable=(Addable(node=NodeSize(cpus=8, gpus=1, group="gpu"), count=2),)
)


def starting(name: str, each: Resources, minutes: float) -> Starting:
    return Starting(job=name, attempt=name, each=each, since=NOW - timedelta(minutes=minutes))


@given(st.lists(st.tuples(st.sampled_from([SMALL, GPU, Resources(cpus=64)]), st.integers(0, 60))))
def test_the_first_never_gives_back_and_all_but_one_of_those_who_compete_do_in_the_end(jobs: Any) -> None:
    left = [starting(str(n), each, minutes) for n, (each, minutes) in enumerate(jobs)]
    kept = [one.attempt for one in left if one not in in_vain(left, NOW, PATIENCE)]
    vain = first = in_vain(left, NOW, PATIENCE)
    while (one := gives_back(vain, CAPACITY)) is not None:
        assert one != vain[0]
        assert one.attempt not in kept
        vain = [other for other in vain if other != one]
    # small and GPU trainers both fit on a node with GPUs; what fits nowhere stands in nobody's way
    competing = [one for one in first if one.each.cpus < 64]
    assert [one for one in vain if one.each.cpus < 64] == competing[:1]


def test_hopes_that_were_in_vain_are_nobodys() -> None:
    assert without_hopes(CAPACITY, [starting("a", GPU, 40)]).addable == ()
    assert without_hopes(CAPACITY, [starting("a", Resources(cpus=64), 40)]) == CAPACITY
    assert without_hopes(CAPACITY, []) == CAPACITY


# four nodes of which two come
GROUPS = {"spot": {"cpus": "1", "max_nodes": 4}}


@pytest.mark.parametrize("settings_more", [{"node_groups": GROUPS, "start_wait_s": 60}])
async def test_of_two_jobs_that_wait_for_nodes_which_do_not_come_the_first_gets_what_there_is(
    service: Service, fake: FakeRay, client: httpx.AsyncClient, anonymous: httpx.AsyncClient, spec: dict[str, Any]
) -> None:
    fake.nodes = [{}, {"CPU": 1.0}, {"CPU": 1.0}]
    fake.labels = {n: {"ray.io/node-group": "spot"} for n in (1, 2)}
    asked = spec | {"trainers": 2, "min_trainers": 2, "max_failures": 0}
    first, second = [(await client.post("/v1/jobs", json=asked)).json()["id"] for _ in range(2)]
    async with running(service, fake):
        one, two = [await launched(fake, anonymous, job) for job in (first, second)]
        for attempt in (one, two):
            await attempt.claim()
            await attempt.uplink(events=[make_event(1, EventKind.STATE, state="starting", reason="1 trainer waits")])
        at = service.now()
        object.__setattr__(service, "now", lambda: at + timedelta(seconds=61))
        service.wakeups.wake(RECONCILER)
        gave = await until(service, second, lambda v: v.state is JobState.QUEUED)
        assert "gave back" in gave.reason
        assert (await two.uplink(events=[make_event(2, EventKind.STATE, state="running")])).status_code == 410
        # the clean-up is over: it could start again, were it not for what is hoped for in vain
        await fake.submitted(f"surefoot-{second}-1-cleanup")
        fake.end(f"surefoot-{second}-1-cleanup", "SUCCEEDED")
        waits = await until(service, second, lambda v: "has 2" in v.reason or "of 2 CPUs" in v.reason)
        assert waits.state is JobState.QUEUED
        await one.uplink(events=[make_event(2, EventKind.STATE, state="running")])
        await one.uplink(
            events=[
                make_event(3, EventKind.FINISHED, digest="d" * 32),
                make_event(4, EventKind.STATE, state="succeeded"),
            ]
        )
        # not a loss: with max_failures 0 it would have failed
        await launched(fake, anonymous, second, 2)


@pytest.mark.parametrize("settings_more", [{"node_groups": GROUPS, "start_wait_s": 60}])
async def test_jobs_whose_trainers_run_and_copy_their_data_for_long_wait_for_no_node(
    service: Service, fake: FakeRay, client: httpx.AsyncClient, anonymous: httpx.AsyncClient, spec: dict[str, Any]
) -> None:
    fake.nodes = [{}, *[{"CPU": 1.0}] * 4]
    fake.labels = {n: {"ray.io/node-group": "spot"} for n in range(1, 5)}
    asked = spec | {"trainers": 2, "min_trainers": 2}
    first, second = [(await client.post("/v1/jobs", json=asked)).json()["id"] for _ in range(2)]
    async with running(service, fake):
        for attempt in [await launched(fake, anonymous, job) for job in (first, second)]:
            await attempt.claim()
            started = [make_event(n, EventKind.TRAINER_STARTED, trainer=f"T{n}") for n in (1, 2, 3)]
            lost = make_event(4, EventKind.TRAINER_LOST, trainer="T1", cause="its node is gone")
            copies = make_event(5, EventKind.DATA, trainer="T2", name="train", bytes=10**12, files=1, copied=False)
            assert (await attempt.uplink(events=[*started, lost, copies])).status_code == 200
        at = service.now()
        object.__setattr__(service, "now", lambda: at + timedelta(seconds=61))
        # it is told why it waits by a look at the queue that would have had one of the others give back
        third = (await client.post("/v1/jobs", json=asked)).json()["id"]
        await until(service, third, lambda v: "CPUs" in v.reason)
        for job in (first, second):
            assert (await client.get(f"/v1/jobs/{job}")).json()["state"] == "starting"
