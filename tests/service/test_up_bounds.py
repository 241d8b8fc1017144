"""`surefoot up` is what serves in production, too: over a cluster of one's own it has the bounds that any `up` has."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

LIMIT_S = 180.0
COMMAND = [sys.executable, "-c", "from surefoot.cli import main; main()", "up", "--port", "0"]
# nothing listens there: the service serves what it has, and its jobs wait
NO_CLUSTER = ["--ray-address", "http://127.0.0.1:9"]


@pytest.fixture
def url(tmp_path: Path) -> Iterator[str]:
    data, log = tmp_path / "data", tmp_path / "log"
    env = {**os.environ, "SUREFOOT_REQUEST_S": "0.5", "SUREFOOT_MAX_CONNECTIONS": "16"}
    with log.open("wb") as output:
        up = subprocess.Popen([*COMMAND, *NO_CLUSTER, "--data", str(data)], stdout=output, stderr=output, env=env)
    try:
        deadline = time.monotonic() + LIMIT_S
        while not (data / "service.json").exists():
            assert up.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.05)
        yield json.loads((data / "service.json").read_text())["url"]
        up.send_signal(signal.SIGTERM)
        assert up.wait(LIMIT_S) == 0, log.read_text()
    finally:
        up.kill()
        up.wait()


@pytest.mark.process
def test_up_over_another_cluster_bounds_its_connections(url: str) -> None:
    where = (urlsplit(url).hostname or "", urlsplit(url).port or 0)
    silent = [socket.create_connection(where, timeout=LIMIT_S) for _ in range(100)]
    try:
        assert httpx.get(f"{url}/v1/health", timeout=LIMIT_S).status_code == 200
        for connection in silent:
            try:
                assert connection.recv(1) == b"", "closed by the service, although nothing was ever asked"
            except ConnectionError:
                pass  # it made room for others
    finally:
        for connection in silent:
            connection.close()
