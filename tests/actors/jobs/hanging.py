"""A train function that hangs on one trainer, at the place in config["hangs"], until the test opens the gate."""

import ctypes
import os
import time

import torch
import torch.nn.functional as F
from deadly import begins

import surefoot


def hang(run, place):
    if run.config["hangs"] != place or not begins(run.config["mark"]):
        return
    if run.config.get("native"):
        while not os.path.exists(run.config["gate"]):
            ctypes.PyDLL(None).usleep(900_000)  # holds the interpreter
    while not os.path.exists(run.config["gate"]):
        time.sleep(0.005)


class Numbers(torch.utils.data.Dataset):
    def __init__(self, run):
        self.run = run

    def __len__(self):
        return 100

    def __getitem__(self, i):
        hang(self.run, "data")
        return torch.sin(torch.arange(12) * (i + 1.0)), i % 3


def train(run: surefoot.Run) -> None:
    hang(run, "before")
    model = torch.nn.Linear(12, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    run.track(model=model, optimizer=optimizer)
    data = Numbers(run)
    for step in run.steps(6):
        for x, y in step.batches(data):
            F.cross_entropy(model(x), y).backward()
            if step.number == 3:
                hang(run, "sub-task")
        if step.number == 3:
            hang(run, "step")
        optimizer.step()
    hang(run, "after")
