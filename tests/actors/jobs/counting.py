"""Keeps records of sub-tasks of every kind, each trainer its own; what they have come to is written down after each step."""

import json
import os
from collections import Counter, defaultdict
from pathlib import Path

import torch
import torch.nn.functional as F
from small import Numbers, hold, make

import surefoot


class Meter:
    def __init__(self):
        self.count, self.mean = 0, None

    def update(self, value):
        self.count += 1
        self.mean = value if self.mean is None else 0.9 * self.mean + 0.1 * value


def train(run: surefoot.Run) -> None:
    model, optimizer = make(run.config)
    run.track(model=model, optimizer=optimizer)
    losses, seen, meters, total = [], Counter(), defaultdict(Meter), torch.zeros(())
    number, data = 0, Numbers()
    for step in run.steps(run.config["steps"]):
        for x, y, index in step.batches(data):
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            step.log(loss=loss)
            losses.append(loss.item())
            seen.update((step.number, int(i)) for i in index)
            meters["loss"].update(loss.item())
            total += 1
            number += 1
            hold(run, step)
        optimizer.step()
        told = [len(losses), seen.total() // len(index), meters["loss"].count, int(total), number]
        Path(run.config["place"], str(os.getpid())).write_text(json.dumps(told))
