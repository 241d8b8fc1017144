"""Computes with what Surefoot does not see: other bits on every trainer, or on who joins, from the start or from a later step on."""

import os
from contextlib import nullcontext

import torch
import torch.nn.functional as F
from small import Numbers, hold, make

import surefoot

# how many batches this process has seen
SEEN = []

SCALES = {
    "process": lambda step: float(os.getpid()),
    "process late": lambda step: float(os.getpid()) if step.number >= 5 else 1.0,
    "process at last": lambda step: float(os.getpid()) if step.number >= 9 else 1.0,
    "batches late": lambda step: float(len(SEEN)) if step.number >= 5 else 1.0,
    "environment": lambda step: float(os.environ.get("STAGE", "1")),
    "chance": lambda step: float(torch.frombuffer(bytearray(os.urandom(4)), dtype=torch.int32)),
}


def train(run: surefoot.Run) -> None:
    model, optimizer = make(run.config)
    run.track(model=model, optimizer=optimizer)
    scale = SCALES[run.config["by"]]
    for step in run.steps(run.config["steps"]):
        for x, y, _ in step.batches(Numbers()):
            with run.nondeterministic("chance") if run.config["by"] == "chance" else nullcontext():
                loss = F.cross_entropy(model(x), y) * scale(step)
            SEEN.append(1)
            loss.backward()
            step.log(loss=loss)
            hold(run, step)
        optimizer.step()
        os.environ["STAGE"] = str(step.number)
