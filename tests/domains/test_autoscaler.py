"""A cluster with no node but the head: its autoscaler (v2) adds nodes for trainers that wait, of the group that the policy says."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from surefoot.events import EventKind
from surefoot.node_groups import NodeGroup

from ..ray_head import Head, ray_head
from .world import LIVENESS_S, Attempt, attempt, until, upload_package

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.filterwarnings("default")]

# of the cheaper ones none ever comes, as spot nodes that nobody has
GROUPS: dict[str, Any] = {
    "spot": {"resources": {"CPU": 1}, "max_workers": 4, "node_config": {"never": True}},
    "owned": {"resources": {"CPU": 1}, "max_workers": 2},
}
PRICES = {"spot": 0.1, "owned": 1.0}
NODE_GROUPS = {
    name: NodeGroup(cpus=1, max_nodes=group["max_workers"], price_per_hour=PRICES[name])
    for name, group in GROUPS.items()
}


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    with ray_head(0, groups=GROUPS) as head:
        upload_package(head)
        yield head


def _reasons(run: Attempt) -> list[str]:
    return [str(event.data["reason"]) for event in run.control.of(EventKind.STATE)]


def test_the_cheaper_group_is_waited_for_and_then_the_dearer_one_is_asked(head: Head, undisturbed: list[bytes]) -> None:
    with attempt(head, "added", trainers=2) as run:
        run.control.more = {"node_groups": NODE_GROUPS, "node_wait_s": 10.0}
        run.launch()
        until(lambda: any("the autoscaler has asked for 2 of spot, not there yet" in said for said in _reasons(run)))
        run.control.wait_for_state("succeeded", LIVENESS_S)
        ready = run.control.of(EventKind.TRAINER_READY)
        assert sorted(str(event.data["group"]) for event in ready) == ["owned", "owned"]
        assert not run.lost()
        assert "every trainer has its node" in _reasons(run)
        run.assert_ledger(undisturbed)
