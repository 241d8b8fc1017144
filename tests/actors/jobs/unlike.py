"""Computes with what Surefoot does not see: other bits on every trainer, or on who joins."""

import os

import torch
import torch.nn.functional as F
from small import Numbers, hold, make

import surefoot


def scale(run, step):
    match run.config["by"]:
        case "process":
            return float(os.getpid())
        case "environment":
            return float(os.environ.get("STAGE", "1"))
        case "chance":
            return float(torch.frombuffer(bytearray(os.urandom(4)), dtype=torch.int32))
    return 1.0


def train(run: surefoot.Run) -> None:
    model, optimizer = make(run.config)
    run.track(model=model, optimizer=optimizer)
    seen = []
    for step in run.steps(run.config["steps"]):
        for x, y, _ in step.batches(Numbers()):
            seen.append(step.number)
            if run.config["by"] == "chance":
                with run.nondeterministic("chance"):
                    loss = F.cross_entropy(model(x), y) * scale(run, step)
            else:
                loss = F.cross_entropy(model(x), y) * scale(run, step)
            loss.backward()
            step.log(loss=loss)
            hold(run, step)
        optimizer.step()
        os.environ["STAGE"] = str(step.number)
