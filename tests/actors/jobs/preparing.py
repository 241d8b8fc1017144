"""A train function that prepares its data once, and notes who did."""

import os
import signal

import numpy as np
import torch
import torch.nn.functional as F
from deadly import begins

import surefoot


def note(path, what):
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.write(handle, f"{what} {os.getpid()}\n".encode())
    os.close(handle)


def prepare(run, path):
    note(run.config["notes"], "began")
    if run.config.get("dies") and begins(run.config["dies"]):
        os.kill(os.getpid(), signal.SIGKILL)
    if run.config.get("raises"):
        raise FileNotFoundError("the source of the data")
    np.random.seed(1)
    noise = torch.randn(100, 12)
    with open(path, "wb") as out:
        out.write(np.sin(np.arange(1200, dtype=np.float32)).tobytes())
    note(run.config["notes"], f"prepared {noise.sum():.6f}")


class Rows:
    def __init__(self, path):
        self.x = np.memmap(path, dtype=np.float32, mode="r").reshape(-1, 12)

    def __len__(self):
        return len(self.x)

    def __getitem__(self, i):
        return torch.from_numpy(self.x[i].copy()), i % 3


def train(run: surefoot.Run) -> None:
    path = run.config["path"]
    once = run.node_once if run.config.get("node") else run.once
    once(lambda: prepare(run, path))
    model = torch.nn.Linear(12, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    run.track(model=model, optimizer=optimizer)
    for step in run.steps(run.config["steps"]):
        for x, y in step.batches(Rows(path)):
            F.cross_entropy(model(x), y).backward()
        gate = run.config.get("gate")
        while gate and step.number == 4 and not os.path.exists(gate):
            import time

            time.sleep(0.005)
        optimizer.step()


def late(run: surefoot.Run) -> None:
    model = torch.nn.Linear(12, 3)
    run.track(model=model)
    for _ in run.steps(3):
        run.once(lambda: None)
