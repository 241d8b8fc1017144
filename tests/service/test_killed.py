"""The control plane, a real process, killed again and again while a supervisor's real uplink tells rows and events."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator

import httpx
import pytest

from surefoot.events import CommandKind, EventKind
from surefoot_actors.uplink.http import HttpUplink
from surefoot_service.parts import Service
from surefoot_service.settings import Settings

from .helpers import LIMIT_S, Attempt, make_row

pytestmark = pytest.mark.slow

KILLS, ROWS_A_KILL = 3, 300
COMMAND = [
    sys.executable,
    "-m",
    "uvicorn",
    "--factory",
    "surefoot_service.rest.app:create_app",
    "--log-level",
    "warning",
]


class ControlPlane:
    """A service process on a port and a store that stay the same over its restarts."""

    def __init__(self, settings: Settings) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._port = int(probe.getsockname()[1])
        self.url = f"http://127.0.0.1:{self._port}"
        self._env = {**os.environ, "SUREFOOT_DATA": str(settings.data)}
        if settings.database_url:
            self._env["SUREFOOT_DATABASE_URL"] = settings.database_url
        self.start()

    def start(self) -> None:
        self._process = subprocess.Popen([*COMMAND, "--port", str(self._port)], env=self._env)

    def kill(self) -> None:
        """SIGKILL, wherever it is."""
        self._process.kill()
        self._process.wait()


@pytest.fixture
def plane(settings: Settings, service: Service) -> Iterator[ControlPlane]:
    """Beside `service`, which has the same store: only the process is asked."""
    assert service.settings is settings
    made = ControlPlane(settings)
    yield made
    made.kill()


async def answering(plane: ControlPlane) -> None:
    deadline = time.monotonic() + LIMIT_S
    async with httpx.AsyncClient(trust_env=False) as client:
        while time.monotonic() < deadline:
            try:
                if (await client.get(f"{plane.url}/v1/health")).is_success:
                    return
            except httpx.TransportError:
                await asyncio.sleep(0.05)
    raise AssertionError("the control plane does not answer")


@pytest.mark.parametrize("database_url", ["sqlite", "postgres"], indirect=True)
async def test_nothing_is_lost_or_doubled_when_the_control_plane_is_killed(
    plane: ControlPlane, service: Service, client: httpx.AsyncClient, attempt: Attempt
) -> None:
    await answering(plane)
    uplink = HttpUplink(plane.url, attempt.name, attempt.token, "supervisor-1")
    await uplink.start()
    commands = uplink.commands()
    step = 0
    for kill in range(KILLS):
        for _ in range(ROWS_A_KILL):
            uplink.rows([make_row(step, f"{step:032x}")])
            uplink.event(EventKind.WARNING, message=f"after {step}")
            step += 1
            await asyncio.sleep(0.0005)
        await client.post(f"/v1/jobs/{attempt.job}/resize", json={"trainers": 3 + kill})
        # in the midst of batches: what was stored and not acknowledged is sent again
        plane.kill()
        uplink.rows([make_row(step, f"{step:032x}")])
        step += 1
        plane.start()
        told = await asyncio.wait_for(anext(commands), LIMIT_S)
        assert (told.n, told.kind, told.trainers) == (kill + 1, CommandKind.RESIZE, 3 + kill)
    assert await uplink.flush(LIMIT_S)
    assert uplink.rows_below == step
    await uplink.close()
    ledger = (await client.get(f"/v1/jobs/{attempt.job}/ledger", params={"limit": 100_000})).json()["rows"]
    assert [(r["result"]["step"], r["result"]["digest"]) for r in ledger] == [(n, f"{n:032x}") for n in range(step)]
    events = (await client.get(f"/v1/jobs/{attempt.job}/events", params={"limit": 10_000})).json()["events"]
    mine = [e["n"] for e in events if e["source"] == "supervisor-1"]
    assert mine == list(range(1, KILLS * ROWS_A_KILL + 1))
    assert not [e for e in events if "told twice" in str(e["data"])]
