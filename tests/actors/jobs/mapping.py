"""A train function under which its mapped data is truncated, on one trainer."""

import mmap
import os

import torch
import torch.nn.functional as F
from deadly import begins
from small import Numbers

import surefoot


def train(run: surefoot.Run) -> None:
    model = torch.nn.Linear(12, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    run.track(model=model, optimizer=optimizer)
    for step in run.steps(6):
        for x, y, _ in step.batches(Numbers()):
            F.cross_entropy(model(x), y).backward()
            if step.number == 3 and begins(run.config["mark"]):
                with open(run.config["path"], "wb+") as file:
                    file.write(bytes(8192))
                    file.flush()
                    mapped = mmap.mmap(file.fileno(), 8192)
                    os.truncate(file.fileno(), 0)
                    print(mapped[4096])
        optimizer.step()
