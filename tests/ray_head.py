"""A Ray head of a test's own, and raylets beside it: own ports, token and short folders; ended with all they started, nothing left."""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from . import node_provider
from .processes import watchdogs

ROOT = Path(__file__).parents[1]
START_S = 60.0
_STARTS = 3
STOP_S = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A running raylet, and all that belongs to it."""

    temp_dir: Path
    process: subprocess.Popen[bytes]

    def family(self) -> list[psutil.Process]:
        """`ray start` and all below it: raylet, agents, workers; on the head the control store too. Nothing once it was killed."""
        if self.process.returncode is not None:
            return []
        parent = psutil.Process(self.process.pid)
        return [parent, *parent.children(recursive=True)]

    def one(self, name: str) -> psutil.Process:
        """The process of this name: "raylet", "gcs_server"."""
        [found] = [process for process in self.family() if process.name() == name]
        return found

    def kill(self) -> None:
        """SIGKILL all of it, as a machine does that loses its power."""
        stopped = self._stop()  # nobody is to notice another's end and say a last word
        for process in reversed(stopped):  # the kernel lets go on whoever is left behind by the group of its parent
            with suppress(psutil.NoSuchProcess):
                process.kill()
        self.process.wait()
        psutil.wait_procs(stopped, STOP_S)

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Have all of it stand still for the duration, as a machine does that hangs. No connection is reset."""
        stopped = self._stop()
        try:
            yield
        finally:
            for process in reversed(stopped):
                with suppress(psutil.NoSuchProcess):
                    process.resume()

    def _stop(self) -> list[psutil.Process]:
        """SIGSTOP all of it. Returns what was stopped, in this order."""
        stopped: list[psutil.Process] = []
        while new := [process for process in self._all() if process not in stopped]:  # started meanwhile
            for process in new:
                with suppress(psutil.NoSuchProcess):
                    process.suspend()
            stopped += new
        return stopped

    def _all(self) -> list[psutil.Process]:
        """The family, and before it the watchdogs of its trainers: no children of anybody's, they would tell that those stand still."""
        family = self.family()
        return [*(watchdog for process in family for watchdog in watchdogs(process.pid)), *family]


@dataclass(frozen=True, slots=True, kw_only=True)
class Head(Node):
    """A running head."""

    address: str
    # where its REST is, if it has a dashboard
    dashboard: str
    # of whatever is to reach it
    env: dict[str, str]


def head_env() -> dict[str, str]:
    """The environment of a head, its raylets and its drivers: with a token of their own."""
    env = {**os.environ, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    # as `surefoot up` has it
    env |= {"RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0", "RUNTIME_ENV_RETRY_TIMES": "1"}
    env |= {"RAY_prestart_worker_first_driver": "0"}
    env |= {"RAY_DISABLE_IMPORT_WARNING": "1", "RAY_USAGE_STATS_ENABLED": "0", "RAY_enable_metrics_collection": "0"}
    return env | {"PYTHONWARNINGS": "ignore"}


@contextmanager
def ray_head(
    num_cpus: int = 4,
    *,
    dashboard: bool = False,
    env: dict[str, str] | None = None,
    port: int = 0,
    groups: dict[str, dict[str, Any]] | None = None,
) -> Iterator[Head]:
    """Run a head for the duration of the block. `port`: of its control store; 0: a free one.

    `groups`: of nodes that its autoscaler (v2) may add, see `node_provider.config`.
    """
    env = env or head_env()
    gcs, *others = free_ports(4)
    options: dict[str, object] = {}
    if groups is None:
        # as `surefoot up` has it, where there is nothing to scale
        options["no-monitor"] = None
    else:
        env |= {"RAY_enable_autoscaler_v2": "1", "AUTOSCALER_UPDATE_INTERVAL_S": "1", "PYTHONPATH": str(ROOT)}
        env |= dict.fromkeys(("RAY_CLOUD_INSTANCE_ID", "RAY_OVERRIDE_NODE_ID_FOR_TESTING"), node_provider.HEAD_ID)
        env["RAY_NODE_TYPE_NAME"] = node_provider.HEAD_TYPE
        options["autoscaling-config"] = node_provider.config(port or gcs, groups)
    options |= {
        "head": None,
        "port": port or gcs,
        "node-ip-address": "127.0.0.1",
        "include-dashboard": dashboard,
        "dashboard-port": others[0],
        "ray-client-server-port": others[1],
    }
    with _started(options, num_cpus, env) as (process, temp_dir):
        yield Head(
            address=_announced(temp_dir),
            dashboard=f"http://127.0.0.1:{others[0]}",
            env=env,
            temp_dir=temp_dir,
            process=process,
        )


@contextmanager
def raylet(
    head: Head, num_cpus: int, *, inside: Sequence[str] = (), env: Mapping[str, str] | None = None, **options: object
) -> Iterator[Node]:
    """Run another node of the head's cluster. `inside`: the command that runs it, in a network of its own say; `env`: more of it."""
    options = {"address": head.address, **{name.replace("_", "-"): value for name, value in options.items()}}
    with _started(options, num_cpus, {**head.env, **(env or {})}, inside) as (process, temp_dir):
        yield Node(temp_dir=temp_dir, process=process)


@contextmanager
def _started(
    options: dict[str, object], num_cpus: int, env: dict[str, str], inside: Sequence[str] = ()
) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    temp_dir = Path(tempfile.mkdtemp(prefix="sf-", dir="/tmp"))
    agent, metrics = free_ports(2)
    options = {
        **options,
        "temp-dir": temp_dir,
        "num-cpus": num_cpus,
        "object-store-memory": 80_000_000,
        # it would send what is printed to drivers, which have none of it
        "include-log-monitor": "false",
        "dashboard-agent-listen-port": agent,
        "metrics-export-port": metrics,
        "min-worker-port": 0,
        "max-worker-port": 0,
    }
    ray = Path(sys.executable).with_name("ray")
    if config := options.pop("autoscaling-config", None):
        path = options["autoscaling-config"] = temp_dir / "autoscaling.json"
        path.write_text(json.dumps(config))
    words = [f"--{name}" if value is None else f"--{name}={value}" for name, value in options.items()]
    command = [*inside, str(ray), "start", "--block", *words]
    try:
        process = _start(command, env, temp_dir)
        try:
            yield process, temp_dir
        finally:
            _end(process)
    finally:
        for _ in range(50):  # whoever is just ending may write a last file
            shutil.rmtree(temp_dir, ignore_errors=True)
            if not temp_dir.exists():
                break
            time.sleep(0.1)


def _announced(temp_dir: Path) -> str:
    """The address that the head tells others to join it by: never loopback, whatever it was given, if the machine has another."""
    found = re.search(r"--address='([^']+)'", _log(temp_dir).read_text())
    assert found is not None
    return found[1]


def _log(temp_dir: Path) -> Path:
    return temp_dir / "start.log"


def free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for sock in sockets:
            sock.bind(("127.0.0.1", 0))
        return [sock.getsockname()[1] for sock in sockets]


def _start(command: list[str], env: dict[str, str], temp_dir: Path) -> subprocess.Popen[bytes]:
    """Start a node. Ray gives its own processes 30 s to come up, and no setting for a busy machine: so it is tried more than once."""
    for _ in range(_STARTS - 1):
        with suppress(RuntimeError):
            return _start_once(command, env, temp_dir)
    return _start_once(command, env, temp_dir)


def _start_once(command: list[str], env: dict[str, str], temp_dir: Path) -> subprocess.Popen[bytes]:
    """Start a node; what does not come up is ended. Raises RuntimeError."""
    log = _log(temp_dir)
    with ExitStack() as unless_up:
        with log.open("wb") as out:
            process = subprocess.Popen(command, env=env, stdout=out, stderr=out, start_new_session=True)
        unless_up.callback(_end, process)
        _await_start(process, log)
        unless_up.pop_all()
    return process


def _await_start(process: subprocess.Popen[bytes], log: Path) -> None:
    """Wait for "Ray runtime started", which `ray start` prints when all is up."""
    waited = 0.0
    while "Ray runtime started" not in log.read_text(errors="replace"):
        if process.poll() is not None or waited > START_S:
            raise RuntimeError(f"`ray start` failed:\n{log.read_text(errors='replace')}")
        try:
            process.wait(0.1)
        except subprocess.TimeoutExpired:
            waited += 0.1


def _end(process: subprocess.Popen[bytes]) -> None:
    """Terminate `ray start`, then kill what of it is left: descendants found before, by pid."""
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
