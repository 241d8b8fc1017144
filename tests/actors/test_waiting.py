"""Trainers that wait for a node: what is read from Ray's control store, what is told, and when another group is asked for."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ray.core.generated import autoscaler_pb2 as proto

from surefoot.spec import JobState
from surefoot_actors.cluster.ray.demand import Demand, mark, parse
from surefoot_actors.cluster.ray.waiting import Entry, WaitingList, came_after_all, sentence, to_give_up
from surefoot_actors.supervisor.ledger_intake import LedgerIntake
from surefoot_actors.supervisor.status import Status
from surefoot_actors.uplink.memory import MemoryUplink

A, B = "ab2cd3ef4g-2/t1", "ab2cd3ef4g-2/t2"


def request(trainer: str, group: str = "spot") -> Any:
    made = proto.ResourceRequest(resources_bundle={"CPU": 1.0})  # type: ignore[attr-defined]
    for key, value in (("ray.io/node-group", group), *mark(trainer).items()):
        made.label_selectors.add().label_constraints.add(label_key=key, label_values=[value.lstrip("!")])
    return made


def reply() -> Any:
    made = proto.GetClusterStatusReply()  # type: ignore[attr-defined]
    for trainer in (A, B, "another-1/t1"):
        made.cluster_resource_state.pending_resource_requests.add(request=request(trainer), count=1)
    made.cluster_resource_state.pending_resource_requests.add(count=3)  # of no trainer
    made.autoscaling_state.infeasible_resource_requests.append(request(B))
    made.autoscaling_state.pending_instance_requests.add(ray_node_type_name="spot", count=2)
    made.autoscaling_state.pending_instances.add(ray_node_type_name="spot")
    for status, group in (
        (1, "spot"),
        (3, "spot"),
        (2, "spot"),
        (4, "owned"),
        (1, ""),
    ):  # the third is dead, the fourth draining
        made.cluster_resource_state.node_states.add(
            status=status, labels={"ray.io/node-group": group}, available_resources={"CPU": float(status)}
        )
    made.autoscaling_state.failed_instance_requests.add(ray_node_type_name="owned", reason="quota exceeded")
    return made


def test_what_the_control_store_says_of_our_trainers() -> None:
    assert parse(reply(), [A, B, "ab2cd3ef4g-2/t3"]) == Demand(
        waiting=frozenset({A, B}),
        hopeless=frozenset({B}),
        coming={"spot": 3},
        failed={"owned": "quota exceeded"},
        free={"spot": ({"CPU": 1.0}, {"CPU": 3.0})},
    )
    assert parse(proto.GetClusterStatusReply(), [A]) == Demand()  # type: ignore[attr-defined]


@pytest.mark.parametrize("trainer", [A, "a" * 60 + "/t12", "x" + "-" * 59 + "/t0"])
def test_a_trainers_mark_is_a_label_selector_to_ray(trainer: str) -> None:
    from ray._private.label_utils import validate_label_selector

    assert validate_label_selector(dict(mark(trainer))) is None


@pytest.mark.parametrize(
    ("demand", "said"),
    [
        (Demand(), ""),
        (Demand(waiting=frozenset({"another"}), coming={"spot": 1}), ""),
        (Demand(waiting=frozenset({A})), "1 trainer waits for a node"),
        (
            Demand(waiting=frozenset({A, B}), coming={"spot": 2, "owned": 1}),
            "2 trainers wait for a node; the autoscaler has asked for 1 of owned and 2 of spot, not there yet",
        ),
        (
            Demand(waiting=frozenset({A, B}), hopeless=frozenset({B}), failed={"spot": "no quota"}),
            "2 trainers wait for a node; for 1 of them no group may have another; one of spot could not be had: no quota",
        ),
        (
            Demand(waiting=frozenset({A}), hopeless=frozenset({A})),
            "1 trainer waits for a node; for it no group may have another",
        ),
    ],
)
def test_what_people_are_told(demand: Demand, said: str) -> None:
    assert sentence([A, B], demand) == said


names = st.sets(st.sampled_from("abcde"))


@given(waiting=names, entered=names, alone=names, early=names)
def test_who_is_asked_for_anew(waiting: set[str], entered: set[str], alone: set[str], early: set[str]) -> None:
    """Who has no node, has waited long enough, and has a choice: nobody that is just being set up on its node."""
    entries = {name: Entry(has_choice=name not in alone, since=5.0 if name in early else 0.0) for name in entered}
    found = to_give_up(entries, Demand(waiting=frozenset(waiting)), 7.0, 3.0)
    assert set(found) == (waiting & entered) - alone - early


@pytest.mark.parametrize(
    ("left_out", "free", "waits", "anew"),
    [
        ({"spot"}, {"spot": ({"CPU": 1.0}, {"CPU": 4.0, "GPU": 1.0})}, True, True),
        ({"spot"}, {"spot": ({"CPU": 4.0}, {"GPU": 1.0})}, True, False),  # neither of them has room
        ({"spot"}, {"owned": ({"CPU": 4.0, "GPU": 1.0},)}, True, False),  # Ray takes it by itself
        (set(), {"spot": ({"CPU": 4.0, "GPU": 1.0},)}, True, False),
        ({"spot"}, {"spot": ({"CPU": 4.0, "GPU": 1.0},)}, False, False),  # it has a node
        ({"spot"}, {}, True, False),
    ],
)
def test_a_node_that_comes_after_all_is_taken(left_out: set[str], free: Any, waits: bool, anew: bool) -> None:
    entry = Entry(has_choice=True, left_out=frozenset(left_out), needs={"CPU": 2.0, "GPU": 1.0}, since=0.0)
    waiting = WaitingList(300.0, lambda text: None)
    with waiting.entered(A, entry):
        waiting.hear(Demand(waiting=frozenset({A} if waits else ()), free=free), 1.0)
    assert (entry.anew, entry.over.is_set()) == (anew, anew)


@given(
    places=st.integers(0, 4),
    left_out=st.lists(st.sampled_from([frozenset[str](), frozenset({"spot"}), frozenset({"owned"})]), max_size=6),
)
def test_no_more_are_asked_for_anew_than_there_is_room_for(places: int, left_out: list[frozenset[str]]) -> None:
    """The others go on waiting for what they wait for: their time does not begin again."""
    entries = {f"t{n}": Entry(has_choice=True, left_out=out, needs={"CPU": 2.0}) for n, out in enumerate(left_out)}
    free = {"spot": ({"CPU": 2.0 * places + 1.0},), "owned": ({"CPU": 1.0},)}
    found = came_after_all(entries, Demand(waiting=frozenset(entries), free=free))
    could = [name for name, entry in entries.items() if "spot" in entry.left_out]
    assert found == could[:places]
    assert free["spot"] == ({"CPU": 2.0 * places + 1.0},)


async def test_what_the_control_store_says_amiss_once_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter((ValueError("of another version"), Demand(waiting=frozenset({A}))))

    def read(trainers: object) -> Demand:
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr("surefoot_actors.cluster.ray.waiting.read_demand", read)
    monkeypatch.setattr("surefoot_actors.cluster.ray.waiting.POLL_S", 0.0)
    said = asyncio.get_running_loop().create_future()
    waiting = WaitingList(300.0, said.set_result)
    with waiting.entered(A, Entry(has_choice=True)):
        looking = asyncio.create_task(waiting.run())
        try:
            done, _ = await asyncio.wait({said, looking}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            looking.cancel()
    assert done == {said}
    assert said.result() == "1 trainer waits for a node"


def test_what_is_told_is_told_when_it_changes() -> None:
    told: list[str] = []
    waiting = WaitingList(3.0, told.append)
    entry = Entry(has_choice=True)
    with waiting.entered(A, entry):
        waiting.hear(Demand(waiting=frozenset({A})), entry.since + 1.0)
        waiting.hear(Demand(waiting=frozenset({A})), entry.since + 2.0)
        assert not entry.over.is_set()
        waiting.hear(Demand(waiting=frozenset({A}), coming={"spot": 1}), entry.since + 3.0)
        assert entry.over.is_set()
        waiting.hear(Demand(), entry.since + 4.0)
    assert told == [
        "1 trainer waits for a node",
        "1 trainer waits for a node; the autoscaler has asked for 1 of spot, not there yet",
        "",
    ]


def test_it_is_told_as_the_reason_of_the_state_that_the_job_is_in() -> None:
    uplink = MemoryUplink()
    status = Status(uplink.event, LedgerIntake(uplink))
    status.note_waiting("1 trainer waits for a node")  # a supervisor that has told no state yet would tell a wrong one
    status.tell(JobState.STARTING, "waiting for the first trainers")
    status.note_waiting("1 trainer waits for a node")
    status.tell(JobState.RUNNING, "the first generation")
    status.note_waiting("2 trainers wait for a node")
    status.note_waiting("")
    status.tell(JobState.SUCCEEDED, "done")
    status.note_waiting("1 trainer waits for a node")
    assert [(event.data["state"], event.data["reason"]) for event in uplink.events] == [
        ("starting", "waiting for the first trainers"),
        ("starting", "1 trainer waits for a node"),
        ("running", "the first generation"),
        ("running", "2 trainers wait for a node"),
        ("running", "every trainer has its node"),
        ("succeeded", "done"),
    ]
