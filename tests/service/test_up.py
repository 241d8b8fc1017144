"""`surefoot up`, the real thing: a head of its own, and nothing left of it however it ends."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from ipaddress import IPv6Address, ip_address
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import safetensors.torch

import surefoot
from surefoot.events import LedgerRow
from surefoot_service.cluster.processes import kill_marked, marked

from .helpers import TRAIN, ZIP, make_zip

LIMIT_S = 360.0
COMMAND = [sys.executable, "-c", "from surefoot.cli import main; main()", "up", "--port", "0", "--cpus", "1"]


def until(what: Callable[[], Any]) -> Any:
    """Return the first true answer: other processes wake nobody here."""
    deadline = time.monotonic() + LIMIT_S
    while time.monotonic() < deadline:
        if answer := what():
            return answer
        time.sleep(0.1)
    raise AssertionError(f"still not so: {what}")


# what the user's environment may have, and no job on the user's head is to see
NOT_FOR_JOBS = ("SUREFOOT_TOKEN", "SUREFOOT_DATA", "SUREFOOT_RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN", "PGPASSWORD")
SECRET = "/a-secret-of-the-users"


class Up:
    """One `surefoot up` on a data folder."""

    def __init__(self, data: Path) -> None:
        self.data, self.log = data, data.with_suffix(".log")
        # what jobs are to leave
        self.durable: list[str] = []
        # a killed one cannot take back what it announced
        (data / "service.json").unlink(missing_ok=True)
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(
                [*COMMAND, "--data", str(data)],
                stdout=output,
                stderr=output,
                start_new_session=True,
                env={**os.environ, **dict.fromkeys(NOT_FOR_JOBS, SECRET)},
            )
        until(lambda: self.ended() or (data / "service.json").exists())
        self.traces: dict[str, str] = json.loads((data / "head.json").read_text())

    def ended(self) -> bool:
        if self.process.poll() is not None:
            raise AssertionError(self.log.read_text())
        return False

    @property
    def url(self) -> str:
        return str(json.loads((self.data / "service.json").read_text())["url"])

    def client(self) -> httpx.Client:
        token = (self.data / "token").read_text().strip()
        return httpx.Client(base_url=self.url, headers={"Authorization": f"Bearer {token}"}, trust_env=False)

    def is_ready(self) -> bool:
        self.ended()
        return "head is ready" in self.log.read_text()

    def processes(self) -> list[psutil.Process]:
        return marked(self.traces["mark"])

    def assert_nothing_is_left(self) -> None:
        assert self.processes() == []
        assert not Path(self.traces["temp"]).exists()
        assert sorted({*os.listdir(self.data)} - {"logs"}) == sorted(
            ["key", "lock", "packages", "secrets.key", "surefoot.db", "token", "token.sha256", *self.durable]
        )

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        kill_marked(self.traces["mark"])


@pytest.fixture
def up(tmp_path: Path) -> Iterator[Up]:
    started = Up(tmp_path / "data")
    yield started
    started.end()


def assert_on_loopback_only(up: Up) -> None:
    """Nothing that `up` or its head has started is reached from elsewhere."""
    listening: set[tuple[str, str]] = set()
    for process in [psutil.Process(up.process.pid), *up.processes()]:
        with suppress(psutil.NoSuchProcess):
            found = process.net_connections("inet")
            listening |= {(c.laddr.ip, process.name()) for c in found if c.status == psutil.CONN_LISTEN}
    assert {"raylet", "gcs_server"} <= {name for _, name in listening}
    assert [at for at in listening if not is_loopback(at[0])] == []


def is_loopback(address: str) -> bool:
    found = ip_address(address)
    mapped = found.ipv4_mapped if isinstance(found, IPv6Address) else None
    return (mapped or found).is_loopback


def submit(client: httpx.Client, source: str = TRAIN, **more: Any) -> str:
    package = client.post("/v1/packages", content=make_zip({"train.py": source}), headers=ZIP).json()["package"]
    spec = {"entrypoint": "train:train", "package": package, "batch_size": 8, **more}
    answer = client.post("/v1/jobs", json=spec)
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])


@pytest.mark.ray
@pytest.mark.slow
def test_up_starts_takes_jobs_and_stops_leaving_nothing(up: Up) -> None:
    with up.client() as client:
        queued = submit(client, min_trainers=4, trainers=4)
        job = submit(client)
        until(lambda: up.ended() or client.get(f"/v1/jobs/{job}").json()["state"] != "queued")
        assert client.get("/v1/health").json()["ray"] is True
        assert "the cluster has 1" in client.get(f"/v1/jobs/{queued}").json()["reason"]
        assert client.get("/v1/ready").status_code == 200
        assert_on_loopback_only(up)
    # it is in use: another is refused, and leaves it alone
    second = subprocess.run([*COMMAND, "--data", str(up.data)], capture_output=True, text=True, timeout=LIMIT_S)
    assert second.returncode != 0
    assert f"in use by another `surefoot up` (pid {up.process.pid})" in second.stderr.replace("\n", " ")
    assert up.processes()
    ray_token = (Path(up.traces["temp"]) / "auth_token").read_text()
    for process in up.processes():
        try:
            environment = process.environ()
        except psutil.NoSuchProcess:
            continue
        assert not {SECRET, ray_token, str(up.data)} & set(environment.values()), process
        assert not set(NOT_FOR_JOBS) & environment.keys(), process
    assert up.data.stat().st_mode & 0o777 == 0o700
    for name in ("token", "key", "token.sha256"):
        assert (up.data / name).stat().st_mode & 0o777 == 0o600
    url = up.url
    up.process.send_signal(signal.SIGINT)
    assert up.process.wait(LIMIT_S) == 0, up.log.read_text()
    # the job may have come as far as its first checkpoint, which stays
    up.durable = [name for name in ("checkpoints",) if (up.data / name).exists()]
    up.assert_nothing_is_left()
    # nobody answers there as `up` did; another test's process may have the port by now
    with pytest.raises(httpx.TransportError):
        httpx.get(url, trust_env=False)
    assert (up.data / "token").read_text().strip() not in up.log.read_text()
    with closing(sqlite3.connect(up.data / "surefoot.db")) as database:
        states = dict(database.execute("select id, state from jobs"))
    assert states[queued] == "queued"
    assert states[job] in ("cancelled", "failed", "succeeded")


@pytest.mark.ray
@pytest.mark.slow
def test_a_signal_while_the_head_starts(up: Up) -> None:
    until(lambda: up.processes())
    up.process.send_signal(signal.SIGINT)
    assert up.process.wait(LIMIT_S) == 0, up.log.read_text()
    up.assert_nothing_is_left()


# Waits in step 25 until its gate is open: so it has a checkpoint of step 20 when its cluster dies.
GATED = """
import os, time
import torch
from torch import nn


class Numbers(torch.utils.data.Dataset):
    def __len__(self):
        return 50

    def __getitem__(self, index):
        return torch.sin(torch.arange(4) * (index + 1.0)), torch.tensor([index / 50.0])


def train(run):
    model = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.2), nn.Linear(8, 1))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    run.track(model=model, optimizer=optimizer)
    for step in run.steps(40):
        for x, y in step.batches(Numbers()):
            while step.number == 25 and run.config["gate"] and not os.path.exists(run.config["gate"]):
                time.sleep(0.01)
            loss = ((model(x) - y) ** 2).mean()
            loss.backward()
            step.log(loss=loss)
        optimizer.step()
"""


def undisturbed_ledger(source: str) -> list[bytes]:
    scope: dict[str, Any] = {"__name__": "train"}
    exec(compile(source, "train.py", "exec"), scope)  # noqa: S102  the test's own text
    return [
        row.result.canonical() for row in surefoot.run_local(scope["train"], config={"gate": ""}, batch_size=8).rows
    ]


@pytest.mark.ray
@pytest.mark.slow
def test_a_head_that_dies_gets_a_successor_on_which_jobs_go_on(up: Up, tmp_path: Path) -> None:
    """Without fault tolerance of Ray's own: another attempt goes on from the newest checkpoint, with one ledger across both."""
    until(up.is_ready)
    gate = tmp_path / "gate"
    with up.client() as client:
        policy = {"every_steps": 20, "every_s": None}  # while one is being made, no other is begun
        job = submit(client, source=GATED, config={"gate": str(gate)}, checkpoint=policy)

        def told(kind: str) -> list[dict[str, Any]]:
            up.ended()
            events = client.get(f"/v1/jobs/{job}/events").json()["events"]
            return [event["data"] for event in events if event["kind"] == kind]

        until(lambda: [data for data in told("checkpoint") if data["step"] == 20])
        first = [p.pid for p in up.processes()]
        next(p for p in up.processes() if p.name() == "gcs_server").kill()
        until(lambda: up.ended() or up.log.read_text().count("head is ready") == 2)
        assert "The local Ray head died; another is starting" in up.log.read_text()
        assert [pid for pid in first if psutil.pid_exists(pid)] == []
        up.traces = json.loads((up.data / "head.json").read_text())
        gate.touch()
        until(lambda: up.ended() or client.get(f"/v1/jobs/{job}").json()["state"] == "succeeded")
        view = client.get(f"/v1/jobs/{job}").json()
        assert (view["attempts"], view["steps_done"]) == (2, 40)
        assert [data["step"] for data in told("restored")] == [20]
        queued = [data["reason"] for data in told("state") if data.get("state") == "queued"]
        assert queued[1].startswith("the Ray cluster it ran on is gone; it is tried again")
        rows = client.get(f"/v1/jobs/{job}/ledger").json()["rows"]
        ledger = [LedgerRow.model_validate(row).result.canonical() for row in rows]
        assert ledger == undisturbed_ledger(GATED)
        up.durable = ["checkpoints"]
        model = client.get(f"/v1/jobs/{job}/model")
        assert sorted(safetensors.torch.load(model.content)) == ["0.bias", "0.weight", "2.bias", "2.weight"]
        # it ends in the midst of another
        other = submit(client, source=GATED, config={"gate": str(tmp_path / "never")})
        until(lambda: up.ended() or client.get(f"/v1/jobs/{other}").json()["state"] == "running")
    up.process.send_signal(signal.SIGTERM)
    assert up.process.wait(LIMIT_S) == 0, up.log.read_text()
    up.assert_nothing_is_left()
    with closing(sqlite3.connect(up.data / "surefoot.db")) as database:
        states = dict(database.execute("select id, state from jobs"))
    assert states[job] == "succeeded"
    assert states[other] in ("cancelled", "failed")


@pytest.mark.ray
@pytest.mark.slow
def test_what_a_killed_up_left_is_removed_by_the_next(up: Up) -> None:
    until(up.is_ready)
    up.process.kill()
    up.process.wait()
    again = Up(up.data)
    try:
        assert up.processes() == []
        assert not Path(up.traces["temp"]).exists()
        again.process.send_signal(signal.SIGTERM)
        assert again.process.wait(LIMIT_S) == 0, again.log.read_text()
        again.assert_nothing_is_left()
    finally:
        again.end()
