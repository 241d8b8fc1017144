"""Nodes that die, that are cut off from the network, and that are about to go."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from surefoot.events import CommandKind, EventKind, FaultKind

from ..kernel import Network, network
from ..ray_head import Head, Node, ray_head, raylet
from .world import LIVENESS_S, Attempt, Gates, alive, ask_ray, attempt, computed_twice, until, upload_package

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.filterwarnings("default")]

# How long Ray takes at the least to notice by itself that a node is cut off.
RAY_NOTICES_S = 15.0

_NODES = "print(*[node['NodeID'] for node in ray.nodes() if node['Alive']])"
# what `ray drain-node` and autoscalers do, to the node that is not the head's
_DRAIN = """
from ray._raylet import GcsClient
from ray.core.generated import autoscaler_pb2
[node] = [n["NodeID"] for n in ray.nodes() if n["Alive"] and "node:__internal_head__" not in n["Resources"]]
client = GcsClient(address=ray.get_runtime_context().gcs_address)
accepted, why = client.drain_node(node, autoscaler_pb2.DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION"), "a test", 0)
assert accepted, why
"""


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    """With room for two trainers: a third one is on another node."""
    with ray_head(num_cpus=2) as head:
        upload_package(head)
        yield head


@pytest.fixture(scope="module")
def wire() -> Iterator[Network]:
    with network() as made:
        yield made


@pytest.fixture
def far(head: Head, wire: Network) -> Iterator[Node]:
    """A node at the other end of the wire, with room for one trainer."""
    with raylet(head, 1, inside=wire.inside, node_ip_address=wire.address) as node:
        yield node


def test_a_node_that_is_cut_off_holds_up_nobody_and_comes_back_to_end(
    head: Head, far: Node, wire: Network, undisturbed: list[bytes], tmp_path: Path
) -> None:
    gates = Gates(tmp_path, 3, 7)
    with attempt(head, "cut-1", far, trainers=3, config={"gates": gates.config}) as run:
        run.launch()
        run.control.wait_for_step(2, LIVENESS_S)
        [lost] = run.on(far)
        pid = run.trainers()[lost]
        with wire.cut():
            began = time.time()
            gates.open(3)
            recovered = run.control.wait_for_event(EventKind.RECOVERED, LIVENESS_S)
            assert recovered.at.timestamp() - began < RAY_NOTICES_S
            assert [event.data["trainer"] for event in run.lost()] == [lost]
            assert alive(pid), "the trainer that is cut off cannot know"
            assert len(ask_ray(head, _NODES).split()) == 2, "Ray has not noticed yet"
        until(lambda: not alive(pid))
        gates.open(7)
        run.succeed()
        run.assert_ledger(undisturbed)


def _done_or_refused(run: Attempt, pid: int, refused: int) -> bool:
    return not alive(pid) or len(run.control.of(EventKind.WARNING)) > refused


def test_a_killed_raylet_is_a_trainers_loss_named_so(
    head: Head, far: Node, undisturbed: list[bytes], tmp_path: Path
) -> None:
    """By the fault that `surefoot chaos` injects, through the trainer's helper."""
    gates = Gates(tmp_path, 3)
    with attempt(head, "node-1", far, trainers=3, config={"gates": gates.config}) as run:
        run.launch()
        run.control.wait_for_step(2, LIVENESS_S)
        doomed = far.one("raylet")
        [lost] = run.on(far)
        while alive(doomed.pid):  # of three members chance picks one; two are on the head's node, which is refused
            refused = len(run.control.of(EventKind.WARNING))
            run.control.command(CommandKind.FAULT, fault=FaultKind.NODE)
            until(partial(_done_or_refused, run, doomed.pid, refused))
        run.control.wait_for_event(EventKind.TRAINER_LOST, LIVENESS_S, trainer=lost)
        gates.open(3)
        run.succeed()
        for warning in run.control.of(EventKind.WARNING):
            assert "own node" in str(warning.data["message"])
        [event] = run.lost()
        assert str(event.data["reason"]).startswith("its node died")
        run.assert_ledger(undisturbed)


@pytest.mark.parametrize("by", ["drain", "SIGTERM"])
def test_who_is_given_notice_leaves_at_a_boundary_and_nothing_is_computed_twice(
    by: str, head: Head, far: Node, undisturbed: list[bytes], tmp_path: Path
) -> None:
    gates, done = Gates(tmp_path, 3), tmp_path / "computed"
    with attempt(head, f"notice-{by}", far, trainers=3, config={"gates": gates.config, "computed": str(done)}) as run:
        run.launch()
        run.control.wait_for_step(2, LIVENESS_S)
        [leaver] = run.on(far)
        pid = run.trainers()[leaver]
        if by == "drain":
            ask_ray(head, _DRAIN)
        else:
            os.kill(pid, signal.SIGTERM)
        run.control.wait_for_event(EventKind.WARNING, LIVENESS_S)  # it was given notice, in the midst of step 3
        gates.open(3)
        run.succeed()
        [left] = run.control.of(EventKind.TRAINER_LEFT)
        assert left.data["trainer"] == leaver
        assert ("drained" if by == "drain" else "SIGTERM") in str(left.data["reason"])
        assert not alive(pid)
        assert run.lost() == []
        assert computed_twice(done) == 0
        run.assert_ledger(undisturbed)
