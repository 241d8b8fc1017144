"""What may befall a job of a real `surefoot up`, by its own commands and by kill: its ledger stays that of `run_local`."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import safetensors.torch
import torch
from typer.testing import CliRunner

import surefoot
from surefoot.cli.app import app as cli
from surefoot.events import LedgerRow

from .test_up import LIMIT_S, Up, submit, until

pytestmark = [pytest.mark.ray, pytest.mark.slow]

STEPS = 150

# Until its gate is open, a sub-task takes a while, and one of step "held" or later does not end.
JOB = """
import os, time
import torch
from torch import nn


class Numbers(torch.utils.data.Dataset):
    def __len__(self):
        return 50

    def __getitem__(self, index):
        return torch.sin(torch.arange(4) * (index + 1.0)), torch.tensor([index / 50.0])


def make():
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.2), nn.Linear(8, 1))
    return model, torch.optim.AdamW(model.parameters(), lr=0.01)


def hold(config, step):
    while config["gate"] and not os.path.exists(config["gate"]):
        time.sleep(config["slow_s"])
        if step < config["held"]:
            break


def train(run):
    model, optimizer = make()
    run.track(model=model, optimizer=optimizer)
    for step in run.steps(run.config["steps"]):
        for x, y in step.batches(Numbers()):
            hold(run.config, step.number)
            loss = ((model(x) - y) ** 2).mean()
            loss.backward()
            step.log(loss=loss)
        optimizer.step()
"""
# places for three trainers and a spare on the one CPU
SPEC: dict[str, Any] = {"source": JOB, "batch_size": 16, "seed": 5, "resources": {"cpus": 0.25}}


def config(gate: Path | str = "", held: int = 0, slow_s: float = 0.01) -> dict[str, Any]:
    return {"steps": STEPS, "gate": str(gate), "held": held, "slow_s": slow_s}


@dataclass(frozen=True, slots=True, kw_only=True)
class Undisturbed:
    """What `run_local` leaves."""

    ledger: list[bytes]
    model: dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def undisturbed() -> Undisturbed:
    scope: dict[str, Any] = {"__name__": "train"}
    exec(compile(JOB, "train.py", "exec"), scope)  # noqa: S102  the test's own text
    make, made = scope["make"], []

    def make_and_keep() -> Any:
        made.append(make())
        return made[-1]

    scope["make"] = make_and_keep
    rows = surefoot.run_local(scope["train"], config=config(), batch_size=SPEC["batch_size"], seed=SPEC["seed"]).rows
    return Undisturbed(ledger=[row.result.canonical() for row in rows], model=made[0][0].state_dict())


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    """One for all of them; nothing is left of it."""
    started = Up(tmp_path_factory.mktemp("up") / "data")
    try:
        until(started.is_ready)
        yield started
        started.process.send_signal(signal.SIGTERM)
        assert started.process.wait(LIMIT_S) == 0, started.log.read_text()
        started.durable = [folder.name for folder in started.data.glob("checkpoints")]
        started.assert_nothing_is_left()
    finally:
        started.end()


class Watched:
    """A job, as REST tells of it."""

    def __init__(self, client: httpx.Client, up: Up, **spec: Any) -> None:
        self._client, self._up = client, up
        self.id = submit(client, **SPEC, **spec)

    def view(self) -> dict[str, Any]:
        return dict(self._client.get(f"/v1/jobs/{self.id}").json())

    def told(self, kind: str) -> list[dict[str, Any]]:
        """The data of all events of a kind."""
        page = self._client.get(f"/v1/jobs/{self.id}/events", params={"limit": 10_000}).json()
        return [event["data"] for event in page["events"] if event["kind"] == kind]

    def states(self) -> list[str]:
        return [str(data["state"]) for data in self.told("state")]

    def ledger(self) -> list[bytes]:
        rows = self._client.get(f"/v1/jobs/{self.id}/ledger").json()["rows"]
        return [LedgerRow.model_validate(row).result.canonical() for row in rows]

    def becomes(self, state: str) -> dict[str, Any]:
        """Wait for a state; return the view. An end in another one fails the test."""

        def is_so() -> bool:
            self._up.ended()
            now = self.view()
            assert now["state"] == state or now["state"] not in ("succeeded", "failed", "cancelled"), now
            return bool(now["state"] == state)

        until(is_so)
        return self.view()


def lines(up: Up) -> list[tuple[psutil.Process, list[str]]]:
    """The processes on the head, each with its command line."""
    found = []
    for process in up.processes():
        try:
            found.append((process, process.cmdline()))
        except (psutil.NoSuchProcess, psutil.ZombieProcess):
            continue
    return found


def actors(up: Up) -> list[str]:
    """The titles of all that lives of an attempt."""
    return [line[0] for _, line in lines(up) if line and re.match("ray::(Trainer|Supervisor|Keeper)Actor", line[0])]


def launcher(up: Up) -> psutil.Process | None:
    module = ["-m", "surefoot_actors.launch.launcher"]
    return next((process for process, line in lines(up) if line[-2:] == module), None)


def test_a_launcher_killed_with_the_claim_costs_an_attempt(up: Up, undisturbed: Undisturbed) -> None:
    with up.client() as client:
        job = Watched(client, up, config=config())
        doomed: psutil.Process = until(lambda: launcher(up))
        doomed.suspend()
        # It stands still before it has claimed, or its code would be refused; so nobody can have made a supervisor.
        given = doomed.environ()
        url, body = f"/v1/attempts/{given['SUREFOOT_ATTEMPT']}/claim", {"code": given["SUREFOOT_CLAIM"]}
        assert client.post(url, json=body).status_code == 200
        doomed.kill()
        assert job.becomes("succeeded")["attempts"] == 2
        assert job.states()[:4] == ["queued", "starting", "queued", "starting"]
        [_, again] = [data["reason"] for data in job.told("state") if data["state"] == "queued"]
        assert again.startswith("its launcher failed")
        assert "it is tried again" in again
        assert job.ledger() == undisturbed.ledger
        until(lambda: not actors(up))


def test_a_job_is_paused_and_goes_on_in_another_attempt(up: Up, undisturbed: Undisturbed, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    with up.client() as client:
        job = Watched(client, up, config=config(gate, held=3), trainers=2, min_trainers=2)
        until(lambda: job.view()["steps_done"] == 3)
        assert client.post(f"/v1/jobs/{job.id}/pause").json()["state"] == "pausing"
        until(lambda: [data for data in job.told("state") if data["reason"] == "to stop at the next step boundary"])
        gate.touch()
        paused = job.becomes("paused")
        assert 3 < paused["checkpoint_step"] == paused["steps_done"] < STEPS
        until(lambda: not actors(up))
        assert client.post(f"/v1/jobs/{job.id}/resume").json()["state"] == "queued"
        assert job.becomes("succeeded")["attempts"] == 2
        assert [data["step"] for data in job.told("restored")] == [paused["checkpoint_step"]]
        assert job.ledger() == undisturbed.ledger
        model = safetensors.torch.load(client.get(f"/v1/jobs/{job.id}/model").content)
        assert sorted(model) == sorted(undisturbed.model)
        for name, tensor in undisturbed.model.items():
            assert torch.equal(model[name], tensor), name


# of the moments and kinds: a trainer frozen, one killed, the supervisor, and one more trainer, with seconds to recover between them
SEED = 419926
KINDS = ["trainer", "freeze", "supervisor"]


def surefoot_command(up: Up, *words: str) -> str:
    """What the command prints that a person gives."""
    token = (up.data / "token").read_text().strip()
    done = CliRunner().invoke(cli, ["--url", up.url, "--token", token, *words])
    assert done.exit_code == 0, done.output
    return done.stdout


def test_chaos_costs_seconds_and_no_step(up: Up, undisturbed: Undisturbed, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    more = {"trainers": 3, "min_trainers": 1, "spares": 1, "max_failures": 1000}
    with up.client() as client:
        job = Watched(client, up, config=config(gate, held=STEPS - 1, slow_s=0.04), **more)
        until(lambda: job.view()["trainers"] == 3)
        rate = ["--kills-per-minute", "60", "--for", "15s", "--seed", str(SEED)]
        report = json.loads(surefoot_command(up, "chaos", job.id, "--kinds", ",".join(KINDS), *rate, "--json"))
        gate.touch()
        assert sorted(report["faults"]) == sorted(KINDS), report
        assert min(report["faults"].values()) >= 1
        recovered = [r for r in report["recoveries"] if r["seconds"] is not None]
        assert {"trainer", "freeze"} <= {r["kind"] for r in recovered}, report
        assert all(r["seconds"] > 0 for r in recovered)
        assert (report["steps"] > 0, report["steps_lost"]) == (True, 0)
        assert report["goodput"] > 0
        job.becomes("succeeded")
        assert job.ledger() == undisturbed.ledger
        told = [data["kind"] for data in job.told("fault")]
        assert [r["kind"] for r in report["recoveries"]] == told[: len(report["recoveries"])]
    failures = surefoot_command(up, "show", job.id).partition("\nfailures: ")[2].splitlines()[1:]
    for kind in ("trainer", "freeze"):
        assert [line for line in failures if re.search(rf"fault injected: {kind} t\d+  \([\d.]+ m?s\)$", line)], (
            failures
        )
