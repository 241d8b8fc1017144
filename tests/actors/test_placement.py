"""On which nodes trainers are asked for: what holds for every table of groups."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from surefoot.node_groups import NodeGroup
from surefoot.spec import JobSpec, Resources
from surefoot_actors.cluster.placement import device_for, next_waited, order, selectors, to_ask
from surefoot_actors.cluster.ports import TrainerSetup
from surefoot_actors.cluster.ray import cluster as clusters
from surefoot_actors.cluster.ray.cluster import RayCluster
from surefoot_actors.cluster.ray.waiting import Entry

GPU = Resources(cpus=4, gpus=1)
SPOT = NodeGroup(cpus=6, gpus=1, max_nodes=32, market="gke-spot", price_per_hour=0.4, device="L4")
OWNED = NodeGroup(cpus=6, gpus=1, max_nodes=2, market="on-demand", price_per_hour=1.0, device="L4")
BIG = NodeGroup(cpus=48, gpus=8, max_nodes=2, market="on-demand", price_per_hour=9.0, device="A100")
CPU = NodeGroup(cpus=16, max_nodes=4, price_per_hour=0.2)
GROUP, DEVICE = "ray.io/node-group", "ray.io/accelerator-type"
ALL = {"big": BIG, "cpu": CPU, "owned": OWNED, "spot": SPOT}


def test_the_cheaper_group_is_asked_first_of_those_that_hold_the_trainer() -> None:
    assert order(ALL, GPU) == ["spot", "owned", "big"]
    assert order(ALL, Resources(cpus=8)) == ["cpu", "big"]
    assert order(ALL, GPU, "L4") == ["spot", "owned"]
    assert order({**ALL, "spot": SPOT.model_copy(update={"max_nodes": 0})}, GPU, "L4") == ["owned", "spot"]


@pytest.mark.parametrize("each", [GPU, Resources(cpus=1), Resources(cpus=64, gpus=8)])
def test_a_group_of_which_only_a_price_is_said_may_hold_any_trainer(each: Resources) -> None:
    """Its nodes count for the scheduler when they are there: were it not asked, the trainers of a started job would wait without end."""
    assert order({"a": NodeGroup(price_per_hour=1.0, market="on-demand")}, each) == ["a"]


def test_without_all_prices_the_priority_decides() -> None:
    unknown = {"a": OWNED.model_copy(update={"price_per_hour": None}), "b": SPOT.model_copy(update={"priority": 10})}
    assert order(unknown, GPU) == ["b", "a"]


def test_the_trainers_of_a_job_are_of_the_cheapest_model_that_holds_them_all() -> None:
    small = {**ALL, "spot": SPOT.model_copy(update={"max_nodes": 3})}
    assert device_for(small, GPU, 5) == "L4"
    assert device_for(small, GPU, 6) == "A100"
    assert device_for(small, GPU, 17) == "", "the scheduler does not start such a job"
    assert device_for({**ALL, "new": OWNED.model_copy(update={"device": ""})}, GPU, 1) == "", "nobody knows"
    assert device_for(ALL, Resources(cpus=1), 1) == ""


def test_a_model_that_was_waited_for_in_vain_is_passed_over_while_there_is_another() -> None:
    assert device_for(ALL, GPU, 1, frozenset({"L4"})) == "A100"
    assert device_for(ALL, GPU, 1, frozenset({"L4", "A100"})) == "L4", "all were: from the first again"
    assert device_for(ALL, GPU, 17, frozenset({"L4"})) == "L4", "no other has room"


@pytest.mark.parametrize(
    ("names", "device", "shunned", "tried"),
    [
        ([], "", [], []),
        ([], "", ["f0", "f1"], [{"ray.io/node-id": "!in(f0,f1)"}, {}]),
        ("a", "", [], [{GROUP: "a"}, {GROUP: "!in(a,b)"}]),
        ("ba", "L4", [], [{GROUP: "b"}, {GROUP: "a"}, {GROUP: "!in(a,b)", DEVICE: "L4"}]),
        (
            "a",
            "",
            ["f0"],
            [
                {GROUP: "a", "ray.io/node-id": "!in(f0)"},
                {GROUP: "!in(a,b)", "ray.io/node-id": "!in(f0)"},
                {GROUP: "a"},
                {GROUP: "!in(a,b)"},
            ],
        ),
    ],
)
def test_what_ray_is_asked(names: list[str], device: str, shunned: list[str], tried: list[dict[str, str]]) -> None:
    """Nodes of no known group are taken if they are there; none is added of a group that is not named."""
    assert selectors(names, ["a", "b"] if names else [], device, shunned) == tried


amounts = st.sampled_from([0, 1, 2, 4, 8])
tables = st.dictionaries(
    st.sampled_from("abcdef"),
    st.builds(
        NodeGroup,
        cpus=amounts,
        gpus=amounts,
        max_nodes=st.none() | st.integers(0, 4),
        device=st.sampled_from(["", "L4", "A100"]),
        price_per_hour=st.none() | st.sampled_from([0, 0.5, 1]),
        priority=st.integers(0, 2),
    ),
)
resources = st.builds(Resources, cpus=st.sampled_from([0.5, 1, 3]), gpus=st.sampled_from([0, 0, 0.5, 1]))


@given(groups=tables, each=resources, device=st.sampled_from(["", "L4"]))
def test_what_holds_for_every_table(groups: dict[str, NodeGroup], each: Resources, device: str) -> None:
    names = order(groups, each, device)
    assert set(names) <= set(groups)
    grow = [name for name in names if groups[name].max_nodes != 0]
    assert names[: len(grow)] == grow, "of those that get no nodes what is there is taken last"
    if each.gpus:
        assert all(groups[name].gpus >= each.gpus or not groups[name].cpus for name in names)
        assert not device or all(groups[name].device in ("", device) for name in names)
    prices = [groups[name].price_per_hour for name in names]
    if None not in prices:
        assert prices[: len(grow)] == sorted(price or 0.0 for price in prices[: len(grow)])


@given(names=st.lists(st.sampled_from("abcdef"), unique=True))
def test_every_group_is_asked_first_once_before_any_is_again(names: list[str]) -> None:
    first: list[str] = []
    waited: frozenset[str] = frozenset()
    for n in range(len(names)):
        asked = to_ask(names, waited)
        assert asked == names[n:], "those that were waited for hold nobody up"
        first.append(asked[0])
        waited = next_waited(names, waited)
    assert first == names
    assert waited == frozenset(), "and then all of them again"


@given(groups=tables, each=resources, least=st.integers(1, 8))
def test_a_device_has_room_for_the_fewest(groups: dict[str, NodeGroup], each: Resources, least: int) -> None:
    if device := device_for(groups, each, least):
        mine = [groups[name] for name in order(groups, each, device)]
        assert all(group.device == device for group in mine)
        held = [9 if g.max_nodes is None else (int(g.gpus / each.gpus) or 1) * g.max_nodes for g in mine]
        assert sum(held) >= least


async def test_a_job_whose_first_model_never_comes_asks_for_another(monkeypatch: pytest.MonkeyPatch) -> None:
    """It waited without end for the cheapest model beside free nodes of another."""
    cluster = RayCluster("a", None, groups=ALL)  # type: ignore[arg-type]
    asked: list[list[str]] = []

    async def nothing_comes(_setup: object, groups: list[str], entry: Entry) -> None:
        asked.append(groups)
        assert entry.has_choice
        if len(asked) == 7:
            raise EOFError

    monkeypatch.setattr(cluster, "_ask_for", nothing_comes)
    spec = JobSpec(entrypoint="train:train", package="0" * 64, batch_size=8, resources=GPU)
    with pytest.raises(EOFError):
        await cluster.start_trainer(TrainerSetup(attempt="a", trainer="t1", spec=spec, liveness=("", 0)))
    assert asked == [["spot", "owned"], ["owned"], ["big"], ["spot", "owned"], ["owned"], ["big"], ["spot", "owned"]]


async def test_what_was_asked_for_in_vain_is_withdrawn_again_until_its_name_is_free(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A head that is started anew may have lost that it was to end it."""
    withdrawn: list[object] = []

    class Trainer:
        trainer = "t1"

        def __init__(self, actor: object) -> None:
            self.actor = actor

        async def withdraw(self) -> None:
            withdrawn.append(self.actor)

    there: list[object] = [1, 2, None]
    monkeypatch.setattr(clusters, "find_actor", lambda attempt, trainer: there.pop(0))
    monkeypatch.setattr(clusters, "_RETRY_S", 0.001)
    cluster = RayCluster("a", None)  # type: ignore[arg-type]
    monkeypatch.setattr(cluster, "_handle", lambda trainer, actor: Trainer(actor))
    await cluster._withdraw(Trainer(0))  # type: ignore[arg-type]
    assert withdrawn == [0, 1, 2]
