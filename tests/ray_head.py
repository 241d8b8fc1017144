"""A Ray head of a test's own: its own ports, token and short folder; ended by its process group, with nothing left."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

START_S = 60.0
STOP_S = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """A running head."""

    address: str
    # of whatever is to reach it
    env: dict[str, str]
    temp_dir: Path
    process: subprocess.Popen[bytes]


@contextmanager
def ray_head(num_cpus: int = 4, *, dashboard: bool = False) -> Iterator[Head]:
    """Run a head for the duration of the block."""
    temp_dir = Path(tempfile.mkdtemp(prefix="sf-", dir="/tmp"))
    env = {**os.environ, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    env |= {"RAY_DISABLE_IMPORT_WARNING": "1", "RAY_USAGE_STATS_ENABLED": "0", "PYTHONWARNINGS": "ignore"}
    gcs, *others = _free_ports(5)
    options = {
        "node-ip-address": "127.0.0.1",
        "port": gcs,
        "temp-dir": temp_dir,
        "num-cpus": num_cpus,
        "object-store-memory": 80_000_000,
        "include-dashboard": dashboard,
        "dashboard-port": others[0],
        "dashboard-agent-listen-port": others[1],
        "ray-client-server-port": others[2],
        "metrics-export-port": others[3],
        "min-worker-port": 0,
        "max-worker-port": 0,
    }
    ray = Path(sys.executable).with_name("ray")
    command = [str(ray), "start", "--head", "--block", *(f"--{name}={value}" for name, value in options.items())]
    log = temp_dir / "start.log"
    with log.open("wb") as out:
        process = subprocess.Popen(command, env=env, stdout=out, stderr=out, start_new_session=True)
    try:
        _await_head(process, gcs, log)
        yield Head(address=f"127.0.0.1:{gcs}", env=env, temp_dir=temp_dir, process=process)
    finally:
        _end(process)
        shutil.rmtree(temp_dir, ignore_errors=True)


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for sock in sockets:
            sock.bind(("127.0.0.1", 0))
        return [sock.getsockname()[1] for sock in sockets]


def _await_head(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    """Wait for "Ray runtime started", which `ray start` prints when all is up."""
    waited = 0.0
    while "Ray runtime started" not in log.read_text(errors="replace"):
        if process.poll() is not None or waited > START_S:
            raise RuntimeError(f"the Ray head did not start:\n{log.read_text(errors='replace')}")
        try:
            process.wait(0.1)
        except subprocess.TimeoutExpired:
            waited += 0.1


def _end(process: subprocess.Popen[bytes]) -> None:
    """Terminate the head, then kill what of it is left: descendants found before, by pid."""
    try:
        family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    except psutil.NoSuchProcess:
        family = []
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    _, alive = psutil.wait_procs(family, 5)
    for straggler in alive:
        straggler.kill()
    psutil.wait_procs(alive, 5)


@contextmanager
def connected(head: Head, namespace: str = "surefoot") -> Iterator[None]:
    """Be a driver of the head for the duration of the block; Ray reads the token's variables anew."""
    import pytest
    import ray
    from ray._private.authentication_test_utils import reset_auth_token_state

    with pytest.MonkeyPatch.context() as patch:
        for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN"):
            patch.setenv(name, head.env[name])
        reset_auth_token_state()
        ray.init(address=head.address, namespace=namespace, log_to_driver=False)
        try:
            yield
        finally:
            ray.shutdown()
    reset_auth_token_state()
