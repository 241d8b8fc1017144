"""A secret that training code reads, prints, keeps and raises with is found nowhere but where it has to be: by `surefoot up`, for real."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from .test_up import LIMIT_S, Up, submit, until

SECRET = b"secret123"
# base64 of it, at any offset
CODED = (b"c2VjcmV0MTIz", b"NlY3JldDEyM", b"zZWNyZXQxMj")

CODE = """
import base64, json, os, sys, time
import torch
from torch import nn

data = torch.utils.data.TensorDataset(torch.arange(32.0).reshape(16, 2))


def train(run):
    print("the key is", os.environ["KEY"], flush=True)
    print(json.dumps(dict(os.environ)), file=sys.stderr, flush=True)
    print("Basic " + base64.b64encode(("me:" + os.environ["KEY"]).encode()).decode(), flush=True)
    for letter in os.environ["KEY"]:
        sys.stdout.write(letter)
    print(flush=True)
    model = nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    run.track(model=model, optimizer=optimizer)
    for step in run.steps(4):
        key = os.environ["KEY"]
        headers = {"Authorization": "Bearer " + key, "step": step.number}
        for (batch,) in step.batches(data):
            model(batch).mean().backward()
        optimizer.step()
        if step.number == 2:
            while not os.path.exists(run.config["gate"]):
                time.sleep(0.05)
    raise RuntimeError("401 for " + os.environ["KEY"])
"""


def leaks(content: bytes) -> bool:
    return SECRET in content or any(coded in content for coded in CODED)


def files(folder: Path) -> Iterator[tuple[str, bytes]]:
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink():
            yield str(path), path.read_bytes()


def processes(up: Up) -> Iterator[tuple[str, bytes]]:
    """Arguments and environments, as whoever may list processes sees them."""
    for process in [psutil.Process(up.process.pid), *up.processes()]:
        for name in ("cmdline", "environ"):
            try:
                yield f"{process.pid} {name}", Path(f"/proc/{process.pid}/{name}").read_bytes()
            except (FileNotFoundError, ProcessLookupError):
                continue


def listings(up: Up) -> Iterator[tuple[str, bytes]]:
    """What Ray tells whoever may ask it."""
    head = json.loads((up.data / "head.json").read_text())
    token = (Path(up.traces["temp"]) / "auth_token").read_text().strip()
    ports = {c.laddr.port for p in up.processes() for c in p.net_connections("inet") if c.status == psutil.CONN_LISTEN}
    address = head.get("address") or next(filter(None, map(_dashboard, sorted(ports))))
    with httpx.Client(base_url=address, headers={"Authorization": f"Bearer {token}"}, trust_env=False) as ray:
        for path in ("/api/jobs/", "/api/v0/actors?detail=true", "/api/v0/tasks?detail=true", "/api/v0/workers?detail=true",
                     "/api/v0/runtime_envs?detail=true", "/logical/actors", "/api/v0/objects?detail=true"):  # fmt: skip
            answer = ray.get(path, timeout=LIMIT_S)
            yield f"ray {path} {answer.status_code}", answer.content


def _dashboard(port: int) -> str:
    url = f"http://127.0.0.1:{port}"
    try:
        answer = httpx.get(f"{url}/api/version", timeout=2, trust_env=False)
    except httpx.HTTPError:
        return ""
    return url if answer.status_code in (200, 401) else ""


@pytest.mark.ray
@pytest.mark.slow
def test_a_secret_is_found_nowhere(tmp_path: Path) -> None:
    up, gate = Up(tmp_path / "data"), tmp_path / "gate"
    try:
        with up.client() as client:
            answer = client.put("/v1/secrets/THE_KEY", json={"value": SECRET.decode()})
            assert answer.status_code == 201
            job = submit(
                client, CODE, secrets={"KEY": "THE_KEY"}, config={"gate": str(gate)}, checkpoint={"every_steps": 1}
            )
            path = f"/v1/jobs/{job}"
            until(lambda: up.ended() or client.get(path).json()["steps_done"] >= 2)
            until(lambda: client.get(path).json()["checkpoint"])
            seen = [*processes(up), *(told := list(listings(up)))]
            assert [name for name, _ in told if name.endswith(" 200")], told
            until(lambda: b"the key is ***" in client.get(f"{path}/logs").content)
            gate.touch()
            until(lambda: client.get(path).json()["state"] == "failed")
            view = client.get(path).json()
            assert view["reason"].endswith("401 for ***")
            assert "401 for ***" in view["traceback"]
            seen += [
                (at, client.get(f"{path}{at}").content) for at in ("", "/events", "/ledger", "/checkpoints", "/logs")
            ]
            seen += [("audit", client.get("/v1/audit").content), ("secrets", client.get("/v1/secrets").content)]
            seen += [*files(up.data), *files(Path(up.traces["temp"])), ("log", up.log.read_bytes())]
        assert any("checkpoints" in name for name, _ in seen)
        assert [name for name, content in seen if leaks(content)] == []
        assert os.environ.get("KEY") is None
    finally:
        up.end()
