"""The head dies with all that is on it, the supervisor too. With GCS fault tolerance training does not notice."""

from __future__ import annotations

import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from surefoot.events import EventKind

from ..kernel import forbidden
from ..ray_head import free_ports, head_env, ray_head, raylet
from .world import LIVENESS_S, Gates, attempt, until, upload_package

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.filterwarnings("default")]


@pytest.fixture
def redis() -> Iterator[str]:
    """A Redis of the test's own: its address."""
    program = shutil.which("redis-server")
    if program is None:
        forbidden("there is no redis-server (Debian: redis-server)")
    assert program is not None
    [port] = free_ports(1)
    with tempfile.TemporaryDirectory(prefix="sf-") as folder:
        command = [program, "--port", str(port), "--bind", "127.0.0.1", "--dir", folder, "--save", ""]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        try:
            until(lambda: _listens(port))
            yield f"127.0.0.1:{port}"
        finally:
            process.kill()
            process.wait()


def _listens(port: int) -> bool:
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) == 0


def test_training_goes_on_without_a_head_that_keeps_its_facts_in_redis(
    redis: str, undisturbed: list[bytes], tmp_path: Path
) -> None:
    gates, [port] = Gates(tmp_path, 3, 7), free_ports(1)
    env = head_env() | {"RAY_REDIS_ADDRESS": redis}
    with ExitStack() as stack:
        head = stack.enter_context(ray_head(num_cpus=0, env=env, port=port))
        upload_package(head)
        far = stack.enter_context(raylet(head, 2))
        run = stack.enter_context(attempt(head, "head-1", far, trainers=2, config={"gates": gates.config}))
        run.launch()
        run.control.wait_for_step(2, LIVENESS_S)
        trainers = run.trainers()
        assert sorted(run.on(far)) == sorted(trainers)
        [told] = run.control.of(EventKind.GENERATION)
        head.kill()
        died = time.time()
        gates.open(3)
        run.head = stack.enter_context(ray_head(num_cpus=0, env=env, port=port))
        until(lambda: [e for e in run.control.of(EventKind.GENERATION) if e.source != told.source])
        gates.open(7)
        run.succeed()
        again = min(e.at.timestamp() for e in run.control.events.values() if e.source != told.source)
        meanwhile = [run.control.ledger[step].circumstances for step in range(3, 7)]
        assert all(died < c.at < again for c in meanwhile)
        assert run.trainers() == trainers, "a trainer was restarted"
        assert run.lost() == []
        run.assert_ledger(undisturbed)
        far.kill()  # it would look for its head for long
