"""A train function that prints: by Python, past Python, in data workers, and in a progress bar that never ends its line."""

import os
import sys

import torch
import torch.nn.functional as F
from torch import nn

import surefoot


class Loud(torch.utils.data.Dataset):
    def __len__(self):
        return 64

    def __getitem__(self, index):
        print(f"loading {index}")
        return torch.ones(4) * index, index % 2


def train(run: surefoot.Run) -> None:
    os.write(1, f"the key is {os.environ.get('KEY', 'not given')}\n".encode())
    model = nn.Linear(4, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.001)
    run.track(model=model, optimizer=optimizer)
    count = 0
    for step in run.steps(run.config["steps"]):
        for x, y in step.batches(Loud()):
            F.cross_entropy(model(x), y).backward()
        optimizer.step()
        for _ in range(run.config["lines"]):
            print(f"line {count} of step {step.number}")
            count += 1
        sys.stderr.write(f"\r{step.number} done")
        if step.number == 1:
            os.write(1, b"past Python\n")
    print(f"printed {count} in all")
