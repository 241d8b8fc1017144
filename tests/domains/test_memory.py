"""A trainer that takes too much memory is killed by Ray, and its loss is named so."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from surefoot.events import EventKind

from ..ray_head import Head, Node, head_env, ray_head, raylet
from .world import LIVENESS_S, attempt, upload_package

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.filterwarnings("default")]

# What head, supervisor and two trainers may take, other tests meanwhile, and a hog before it is killed.
ROOM_BYTES = 6_000_000_000


@pytest.fixture
def nodes() -> Iterator[tuple[Head, Node]]:
    """A head that minds no memory, since both share this machine's, and a node that does."""
    memory = psutil.virtual_memory()
    threshold = (memory.total - memory.available + ROOM_BYTES) / memory.total
    if threshold > 0.97:
        pytest.fail("this machine has too little free memory to run out of it in an orderly way")
    limits = {"RAY_memory_usage_threshold": f"{threshold:.3f}", "RAY_memory_monitor_refresh_ms": "50"}
    with ray_head(num_cpus=0, env=head_env() | {"RAY_memory_monitor_refresh_ms": "0"}) as head:
        upload_package(head)
        with raylet(head, 2, env=limits) as node:
            yield head, node


def test_a_trainer_killed_for_memory_is_a_loss_named_so(
    nodes: tuple[Head, Node], undisturbed: list[bytes], tmp_path: Path
) -> None:
    head, node = nodes
    taken = tmp_path / "hog"
    with attempt(head, "memory-1", node, trainers=2, config={"hog": str(taken)}) as run:
        run.launch()
        run.control.wait_for_event(EventKind.TRAINER_LOST, LIVENESS_S)
        run.succeed()
        reasons = {str(event.data["trainer"]): str(event.data["reason"]) for event in run.lost()}
        # Ray may choose another one before it, or along with it
        [hog] = [trainer for trainer, pid in run.trainers().items() if str(pid) == taken.read_text()]
        assert reasons[hog].startswith("out of memory"), reasons
        run.assert_ledger(undisturbed)
