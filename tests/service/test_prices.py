"""What nodes and trainers cost: what is set, what is refused, and what holds for every table."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from pydantic_settings import SettingsError

from surefoot.node_groups import NodeGroup
from surefoot.spec import Resources
from surefoot_service.scheduler.prices import per_hour, share, trainer_per_second
from surefoot_service.settings import Settings

TABLE = {
    "gpu": {"cpus": "6", "gpus": "1", "max_nodes": 4, "market": "on-demand", "price_per_hour": 2.0},
    "gpu-spot": {"cpus": "5500m", "gpus": 1, "max_nodes": 32, "market": "gke-spot", "price_per_hour": 0.72},
    "other-spot": {"market": "aws-spot", "price_per_hour": 0.5},
    "another-spot": {"market": "aws-spot", "price_per_hour": 0.6},
    "owned": {"cpus": 8, "market": "owned"},
}


def set_to(table: object, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setenv("SUREFOOT_NODE_GROUPS", json.dumps(table))
    return Settings()


def test_the_table_is_a_setting_and_takes_quantities_as_kubernetes_writes_them(monkeypatch: pytest.MonkeyPatch) -> None:
    groups = set_to(TABLE, monkeypatch).node_groups
    assert groups["gpu"].cpus == 6
    assert groups["gpu-spot"].cpus == 6, "KubeRay rounds up"
    assert groups["owned"].max_nodes is None
    assert Settings.model_fields["node_groups"].default_factory is dict


@pytest.mark.parametrize(
    "group",
    [
        {"price": 1},
        {"price_per_hour": -1},
        {"price_per_hour": "NaN"},
        {"price_per_hour": "much"},
        {"cpus": "6Gi"},
        {"cpus": "m"},
        {"cpus": -1},
        {"max_nodes": 1.5},
        {"gpus": "inf"},
    ],
)
def test_what_makes_no_sense_is_refused_by_its_group(group: object, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValidationError, match=r"node_groups\.gpu\."):
        set_to({"gpu": group}, monkeypatch)


def test_what_is_no_json_is_refused_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUREFOOT_NODE_GROUPS", "{")
    with pytest.raises(SettingsError, match="node_groups"):
        Settings()


def test_a_price_is_the_groups_or_that_of_all_of_its_market(monkeypatch: pytest.MonkeyPatch) -> None:
    groups = set_to(TABLE, monkeypatch).node_groups
    assert per_hour(groups, group="gpu-spot", market="on-demand") == 0.72
    assert per_hour(groups, group="gone", market="gke-spot") == 0.72
    assert per_hour(groups, market="aws-spot") is None
    assert per_hour(groups, group="owned") is None
    assert per_hour(groups) is None


def test_a_trainer_costs_its_part_of_the_node(monkeypatch: pytest.MonkeyPatch) -> None:
    groups = set_to(TABLE, monkeypatch).node_groups
    assert trainer_per_second(groups, Resources(cpus=3, gpus=1), group="gpu") == 2.0 / 3600
    assert trainer_per_second(groups, Resources(cpus=3), group="gpu") == 1.0 / 3600
    assert trainer_per_second(groups, Resources(cpus=1), market="gke-spot") == 0.72 / 3600, "the whole node"
    assert trainer_per_second(groups, Resources(cpus=1), group="owned") is None


nodes = st.builds(NodeGroup, cpus=st.integers(0, 64), gpus=st.integers(0, 8))
each = st.builds(Resources, cpus=st.sampled_from([0.5, 1, 2, 7]), gpus=st.sampled_from([0, 0.25, 1, 2]))


@given(node=nodes, each=each)
def test_as_many_trainers_as_a_node_holds_cost_no_more_than_the_node(node: NodeGroup, each: Resources) -> None:
    part = share(node, each)
    assert 0 < part <= 1
    held = [there / wanted for wanted, there in ((each.cpus, node.cpus), (each.gpus, node.gpus)) if wanted]
    assert int(min(held) + 1e-9) * part <= 1 + 1e-9
