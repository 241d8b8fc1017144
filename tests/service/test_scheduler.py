"""Which queued jobs start: the words people read, and what holds for every queue."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from surefoot.node_groups import NodeGroup
from surefoot.spec import JobSpec, Resources
from surefoot_service.scheduler.capacity import Addable, Capacity, NodeSize, addable
from surefoot_service.scheduler.fifo import Candidate, decide


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


def cluster(*cpus: float, used: float = 0, gpus: float = 0, more: tuple[Addable, ...] = ()) -> Capacity:
    return Capacity(nodes=tuple(NodeSize(cpus=c, gpus=gpus) for c in cpus), used_cpus=used, addable=more)


def more(group: str, count: int, cpus: float = 4, gpus: float = 0, device: str = "") -> Addable:
    return Addable(node=NodeSize(cpus=cpus, gpus=gpus, group=group, device=device), count=count)


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


SPOT, OWNED = more("spot", 3, gpus=1, device="L4"), more("owned", 1, gpus=1, device="A100")


@pytest.mark.parametrize(
    ("asked", "capacity", "start", "reason"),
    [
        # no node but the head's, which trains nothing
        ({"least": 2}, cluster(0, more=(SPOT,)), True, "0 of 0 CPUs are free; the autoscaler could add 3 of spot"),
        ({"least": 2}, cluster(4, more=(SPOT,)), True, "4 of 4 CPUs are free"),
        ({"least": 2}, cluster(1, 1, more=(SPOT,)), True, "2 of 2 CPUs are free"),
        (
            {"least": 2, "cpus": 2},
            cluster(1, 3, more=(SPOT,)),
            True,
            "4 of 4 CPUs are free; the autoscaler could add 3 of spot",
        ),
        (
            {"least": 2, "gpus": 1},
            cluster(4, more=(SPOT, OWNED, more("cpu", 9))),
            True,
            "4 of 4 CPUs are free, 0 of 0 GPUs; the autoscaler could add 3 of spot and 1 of owned",
        ),
        (
            {"least": 4, "gpus": 1},
            cluster(0, more=(SPOT, OWNED)),
            False,
            "needs 4 trainers of 1 CPUs and 1 GPUs; the cluster's nodes and those that the autoscaler could add have room for 3",
        ),
        (
            {"least": 5, "gpus": 1},
            cluster(4, gpus=1, more=(SPOT,)),
            False,
            "needs 5 trainers x 1 GPU = 5 GPUs; the cluster has 1, and 4 with all that the autoscaler could add",
        ),
        (
            {"least": 4},
            cluster(4, used=13, more=(SPOT,)),
            False,
            "needs 4 trainers x 1 CPU = 4 CPUs; 0 of 4 CPUs are free; what the autoscaler could add is not enough: 3 of spot",
        ),
        (
            {"least": 4},
            cluster(4, used=1, more=(more("spot", 0),)),
            False,
            "needs 4 trainers x 1 CPU = 4 CPUs; 3 of 4 CPUs are free; what the autoscaler could add is not enough: nothing",
        ),
    ],
)
def test_the_reason_with_an_autoscaler(asked: dict[str, Any], capacity: Capacity, start: bool, reason: str) -> None:
    (decision,) = decide([candidate("j", **asked)], capacity)
    assert (decision.start, decision.reason) == (start, reason)


def test_what_could_be_added_is_what_a_group_may_have_less_what_lives_of_it() -> None:
    groups = {
        "gpu": NodeGroup(cpus=4, gpus=1, max_nodes=3, device="L4"),
        "full": NodeGroup(cpus=4, max_nodes=1),
        "fixed": NodeGroup(cpus=4),
    }
    live = [NodeSize(cpus=4, gpus=1, group=group) for group in ("gpu", "full", "full", "fixed", "", "gone")]
    assert [(a.node.group, a.count, a.node.device) for a in addable(groups, live)] == [
        ("gpu", 2, "L4"),
        ("full", 0, ""),
    ]


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
sizes = st.builds(
    NodeSize,
    cpus=st.integers(0, 16),
    gpus=st.integers(0, 4),
    group=st.sampled_from(["", "a", "b"]),
    device=st.sampled_from(["", "L4", "A100"]),
)
capacities = st.builds(
    Capacity,
    nodes=st.lists(sizes, max_size=4).map(tuple),
    addable=st.lists(st.builds(Addable, node=sizes, count=st.integers(0, 3)), max_size=2).map(tuple),
    used_cpus=st.integers(0, 20),
    used_gpus=st.integers(0, 4),
)


@given(queue=st.lists(jobs, max_size=8), capacity=capacities)
def test_what_holds_for_every_queue(queue: list[Candidate], capacity: Capacity) -> None:
    decisions = decide(queue, capacity)
    assert [d.job for d in decisions] == [c.job for c in queue]
    assert all(d.reason for d in decisions)
    started = [c for c, d in zip(queue, decisions, strict=True) if d.start]
    assert sum(c.wanted * c.spec.resources.cpus for c in started) <= capacity.most.free_cpus
    assert sum(c.wanted * c.spec.resources.gpus for c in started) <= capacity.most.free_gpus
    assert all(c.spec.min_trainers <= capacity.most.places(c.spec.resources) for c in started)
    # the same queue alone again gives the same; a bigger cluster starts no less of its head
    assert decide(queue, capacity) == decisions
    waits = [i for i, d in enumerate(decisions) if "are free" in d.reason and not d.start]
    if waits:
        assert not any(d.start for d in decisions[waits[0] :])


@given(queue=st.lists(jobs, max_size=8), capacity=capacities)
def test_what_could_be_added_counts_as_what_is_there(queue: list[Candidate], capacity: Capacity) -> None:
    assert [d.start for d in decide(queue, capacity)] == [d.start for d in decide(queue, capacity.most)]


@given(job=jobs, capacity=capacities, another=sizes)
def test_a_node_more_or_one_more_that_could_be_added_keeps_nobody_waiting(
    job: Candidate, capacity: Capacity, another: NodeSize
) -> None:
    [before] = decide([job], capacity)
    for bigger in (
        replace(capacity, nodes=(*capacity.nodes, another)),
        replace(capacity, addable=(*capacity.addable, Addable(node=another, count=1))),
    ):
        [after] = decide([job], bigger)
        assert after.start or not before.start


@given(queue=st.lists(jobs, max_size=8), capacity=capacities)
def test_the_reason_speaks_of_the_autoscaler_where_it_is_needed_and_there_alone(
    queue: list[Candidate], capacity: Capacity
) -> None:
    alone = replace(capacity, addable=())
    for job, decision in zip(queue, decide(queue, capacity), strict=True):
        assert "autoscaler" not in decide([job], alone)[0].reason
        if decision.start and decide([job], capacity)[0].start and not decide([job], alone)[0].start:
            assert "the autoscaler could add" in decision.reason
