"""A train function that prints so many lines a second, spread over its steps, until its time is over."""

import sys
import time

import torch
import torch.nn.functional as F
from torch import nn

import surefoot


def train(run: surefoot.Run) -> None:
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]  # as shipped lines are, and as Ray has its workers' files
    model = nn.Sequential(nn.Linear(64, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    data = torch.utils.data.TensorDataset(torch.randn(1024, 64), torch.arange(1024) % 10)
    run.track(model=model, optimizer=optimizer)
    rate, seconds = run.config["rate"], run.config["seconds"]
    begun, printed = None, 0
    for step in run.steps(run.config["steps"]):
        now = time.monotonic()
        begun = begun or now
        for x, y in step.batches(data):
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            step.log(loss=loss, ran=now - begun)
        optimizer.step()
        while printed < (now - begun) * rate:
            print(f"line {printed} of step {step.number}: some words as programs print them")
            printed += 1
        # a merged value: all trainers stop in the same step, also those that joined late
        if step.merged["ran"] > seconds:
            run.stop()
