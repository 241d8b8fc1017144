"""Which queued jobs start: the words people read, and what holds for every queue."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from surefoot.spec import JobSpec, Resources
from surefoot_service.scheduler.fifo import Candidate, Capacity, NodeSize, decide


def candidate(job: str, *, least: int = 1, wanted: int | None = None, cpus: float = 1, gpus: float = 0) -> Candidate:
    spec = JobSpec(
        entrypoint="a:b",
        package="0" * 64,
        batch_size=64,
        sub_tasks=64,
        trainers=wanted or least,
        min_trainers=least,
        resources=Resources(cpus=cpus, gpus=gpus),
    )
    return Candidate(job=job, spec=spec, wanted=wanted or least)


def cluster(*cpus: float, used: float = 0, gpus: float = 0) -> Capacity:
    return Capacity(nodes=tuple(NodeSize(cpus=c, gpus=gpus) for c in cpus), used_cpus=used)


@pytest.mark.parametrize(
    ("asked", "capacity", "start", "reason"),
    [
        ({}, cluster(2), True, "2 of 2 CPUs are free"),
        ({"least": 4, "cpus": 2}, cluster(2), False, "needs 4 trainers x 2 CPUs = 8 CPUs; the cluster has 2"),
        (
            {"least": 4, "cpus": 2},
            cluster(8, used=5),
            False,
            "needs 4 trainers x 2 CPUs = 8 CPUs; 3 of 8 CPUs are free",
        ),
        ({}, cluster(1, used=1), False, "needs 1 trainer x 1 CPU = 1 CPU; 0 of 1 CPUs are free"),
        ({"gpus": 1}, cluster(8), False, "needs 1 trainer x 1 GPU = 1 GPU; the cluster has 0"),
        ({"gpus": 0.5, "least": 2}, cluster(8, gpus=1), True, "8 of 8 CPUs are free, 1 of 1 GPUs"),
        (
            {"least": 2, "cpus": 3},
            cluster(2, 2, 2),
            False,
            "needs 2 trainers of 3 CPUs; the cluster's nodes have room for 0",
        ),
        ({"least": 2, "cpus": 0.5}, cluster(1), True, "1 of 1 CPUs are free"),
        ({"least": 1, "wanted": 4}, cluster(2), True, "2 of 2 CPUs are free"),
    ],
)
def test_the_reason(asked: dict[str, Any], capacity: Capacity, start: bool, reason: str) -> None:
    (decision,) = decide([candidate("j", **asked)], capacity)
    assert (decision.start, decision.reason) == (start, reason)


def test_a_job_that_waits_is_not_overtaken() -> None:
    queue = [candidate("big", least=4), candidate("small")]
    assert [(d.job, d.start, d.reason) for d in decide(queue, cluster(4, used=1))] == [
        ("big", False, "needs 4 trainers x 1 CPU = 4 CPUs; 3 of 4 CPUs are free"),
        ("small", False, "behind job big in the queue"),
    ]


def test_a_job_that_never_fits_holds_nobody_up() -> None:
    queue = [candidate("never", least=9), candidate("small")]
    assert [d.start for d in decide(queue, cluster(4))] == [False, True]


def test_what_starts_takes_its_place() -> None:
    queue = [candidate(str(i), least=2) for i in range(3)]
    assert [d.start for d in decide(queue, cluster(4))] == [True, True, False]


jobs = st.builds(
    candidate,
    st.uuids().map(str),
    least=st.integers(1, 8),
    cpus=st.sampled_from([0.5, 1, 2, 3]),
    gpus=st.sampled_from([0, 0, 0.5, 1]),
)
capacities = st.builds(
    Capacity,
    nodes=st.lists(st.builds(NodeSize, cpus=st.integers(0, 16), gpus=st.integers(0, 4)), max_size=4).map(tuple),
    used_cpus=st.integers(0, 20),
    used_gpus=st.integers(0, 4),
)


@given(queue=st.lists(jobs, max_size=8), capacity=capacities)
def test_what_holds_for_every_queue(queue: list[Candidate], capacity: Capacity) -> None:
    decisions = decide(queue, capacity)
    assert [d.job for d in decisions] == [c.job for c in queue]
    assert all(d.reason for d in decisions)
    started = [c for c, d in zip(queue, decisions, strict=True) if d.start]
    assert sum(c.wanted * c.spec.resources.cpus for c in started) <= capacity.free_cpus
    assert sum(c.wanted * c.spec.resources.gpus for c in started) <= capacity.free_gpus
    # the same queue alone again gives the same; a bigger cluster starts no less of its head
    assert decide(queue, capacity) == decisions
    waits = [i for i, d in enumerate(decisions) if "are free" in d.reason and not d.start]
    if waits:
        assert not any(d.start for d in decisions[waits[0] :])
