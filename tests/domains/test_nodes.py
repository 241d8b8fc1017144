"""Nodes that die, that are cut off from the network, and that are about to go."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import cast

import pytest

from surefoot.events import CommandKind, EventKind, FaultKind

from ..kernel import Network, network
from ..processes import watchdogs
from ..ray_head import Head, Node, head_env, ray_head, raylet
from .world import (
    LIVENESS_S,
    Attempt,
    Gates,
    again_if_starved,
    alive,
    ask_ray,
    attempt,
    computed_twice,
    until,
    upload_package,
)

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.filterwarnings("default")]

# How long Ray takes at the least to notice by itself that a node is cut off or frozen: it asks five times, and waits long each time.
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
    """With room for one trainer: a second one is on another node. It asks nodes often, so that a dead one is soon forgotten."""
    with ray_head(num_cpus=1, env=head_env() | {"RAY_health_check_period_ms": "500"}) as head:
        upload_package(head)
        yield head


@pytest.fixture(scope="module")
def wire() -> Iterator[Network]:
    with network() as made:
        yield made


class Far:
    """The node at the other end of the wire, with room for one trainer; another one where that before is dead."""

    def __init__(self, head: Head, wire: Network) -> None:
        self._head, self._wire, self._stack = head, wire, ExitStack()
        self._node: Node | None = None

    def node(self) -> Node:
        if self._node is None or not any(process.name() == "raylet" for process in self._node.family()):
            self.end()
            node = raylet(self._head, 1, inside=self._wire.inside, node_ip_address=self._wire.address)
            self._node = self._stack.enter_context(node)
        return self._node

    def end(self) -> None:
        self._stack.close()


@pytest.fixture(scope="module")
def other_end(head: Head, wire: Network) -> Iterator[Far]:
    made = Far(head, wire)
    yield made
    made.end()


@pytest.fixture
def far(other_end: Far) -> Node:
    return other_end.node()


AWAY: dict[str, Callable[[Node, Network], AbstractContextManager[None]]] = {
    "cut off": lambda node, wire: wire.cut(),
    "frozen": lambda node, wire: node.frozen(),
}


@pytest.mark.parametrize("how", AWAY)
@again_if_starved
def test_a_node_that_is_away_holds_up_nobody_and_comes_back_to_end(
    how: str, head: Head, far: Node, wire: Network, undisturbed: list[bytes], tmp_path: Path
) -> None:
    gates = Gates(tmp_path, 3, 7)
    with attempt(head, how.replace(" ", "-"), far, trainers=2, config={"gates": gates.config}) as run:
        run.begin(2)
        [lost] = run.on(far)
        pid = run.trainers()[lost]
        with AWAY[how](far, wire):
            began = time.time()
            gates.open(3)
            recovered = run.control.wait_for_event(EventKind.RECOVERED, LIVENESS_S)
            assert recovered.at.timestamp() - began < RAY_NOTICES_S
            run.control.wait_for_step(6, LIVENESS_S)
            assert alive(pid), "the trainer that is away cannot know"
            assert len(ask_ray(head, _NODES).split()) == 2, "Ray has not noticed yet"
        until(lambda: not alive(pid))
        gates.open(7)
        run.succeed()
        assert [event.data["trainer"] for event in run.lost()] == [lost]
        _, *later = run.control.of(EventKind.GENERATION)
        assert not [event for event in later if lost in cast(list[str], event.data["trainers"])], "it was taken back"
        run.assert_ledger(undisturbed)


@again_if_starved
def test_a_node_that_loses_its_power_is_a_trainers_loss(
    head: Head, far: Node, undisturbed: list[bytes], tmp_path: Path
) -> None:
    """Nothing of it says a last word: the trainer's watchdog dies with the raylet."""
    gates = Gates(tmp_path, 3)
    with attempt(head, "power", far, trainers=2, config={"gates": gates.config}) as run:
        run.begin(2)
        [lost] = run.on(far)
        pid = run.trainers()[lost]
        [watchdog] = watchdogs(pid)
        far.kill()
        assert not alive(pid)
        assert not alive(watchdog.pid)
        run.control.wait_for_event(EventKind.TRAINER_LOST, LIVENESS_S, trainer=lost)
        gates.open(3)
        run.succeed()
        [event] = run.lost()
        assert event.data["trainer"] == lost
        assert "the raylet is gone" not in str(event.data["reason"]), "its watchdog had a last word"
        run.assert_ledger(undisturbed)


def _injections_refused(run: Attempt) -> int:
    return len([e for e in run.control.of(EventKind.WARNING) if "was not injected" in str(e.data["message"])])


def _kill_by_chance(run: Attempt, raylet: int) -> None:
    """Of two members chance picks one; the other is on the head's node, which is refused. So again, until it is the second."""
    injected = 0

    def killed() -> bool:
        nonlocal injected
        if _injections_refused(run) == injected:
            run.control.command(CommandKind.FAULT, fault=FaultKind.NODE)
            injected += 1
        run.check_not_starved()
        return not alive(raylet)

    until(killed)


@again_if_starved
def test_a_killed_raylet_is_a_trainers_loss_named_so(
    head: Head, far: Node, undisturbed: list[bytes], tmp_path: Path
) -> None:
    """By the fault that `surefoot chaos` injects, through the trainer's watchdog."""
    gates = Gates(tmp_path, 3)
    with attempt(head, "node-1", far, trainers=2, config={"gates": gates.config}) as run:
        run.begin(2)
        doomed = far.one("raylet")
        [lost] = run.on(far)
        _kill_by_chance(run, doomed.pid)
        run.control.wait_for_event(EventKind.TRAINER_LOST, LIVENESS_S, trainer=lost)
        gates.open(3)
        run.succeed()
        for warning in run.control.of(EventKind.WARNING):
            assert "own node" in str(warning.data["message"])
        [event] = run.lost()
        assert str(event.data["reason"]).startswith("its node died")
        run.assert_ledger(undisturbed)


def _noticed(run: Attempt, trainer: str) -> bool:
    warnings = [str(event.data["message"]) for event in run.control.of(EventKind.WARNING)]
    return any(message.startswith(f"{trainer} was given notice") for message in warnings)


@pytest.mark.parametrize("by", ["SIGTERM", "drain"])  # a drained node ends
@again_if_starved
def test_who_is_given_notice_leaves_at_a_boundary_and_nothing_is_computed_twice(
    by: str, head: Head, far: Node, undisturbed: list[bytes], tmp_path: Path
) -> None:
    gates, done = Gates(tmp_path, 3), tmp_path / "computed"
    done.unlink(missing_ok=True)
    with attempt(head, f"notice-{by}", far, trainers=2, config={"gates": gates.config, "computed": str(done)}) as run:
        run.begin(2)
        [leaver] = run.on(far)
        pid = run.trainers()[leaver]
        if by == "drain":
            ask_ray(head, _DRAIN)
        else:
            os.kill(pid, signal.SIGTERM)
        until(lambda: _noticed(run, leaver))  # in the midst of step 3
        gates.open(3)
        run.succeed()
        [left] = run.control.of(EventKind.TRAINER_LEFT)
        assert left.data["trainer"] == leaver
        assert ("drained" if by == "drain" else "SIGTERM") in str(left.data["reason"])
        assert not alive(pid)
        assert run.lost() == []
        assert computed_twice(done) == 0
        run.assert_ledger(undisturbed)
