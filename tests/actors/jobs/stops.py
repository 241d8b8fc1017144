"""Training that ends early: decided by merged values, by what only one trainer knows, and by a count that joiners lack."""

from __future__ import annotations

import os
from typing import Any

import torch
import torch.nn.functional as F
from small import Numbers, hold
from torch import nn

from surefoot import Run


def make(run: Run, **tracked: Any) -> Any:
    model = nn.Linear(12, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02)
    run.track(model=model, optimizer=optimizer, **tracked)
    return model, optimizer


def one_step(run: Run, step: Any, model: Any, optimizer: Any, data: Any) -> None:
    for x, y, _ in step.batches(data):
        hold(run, step)
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        step.log(loss=loss)
    optimizer.step()


def after(run: Run) -> None:
    with open(run.config["after"], "a") as file:
        file.write(f"{os.getpid()}\n")


def early(run: Run) -> None:
    """Ends when the loss has not fallen for six steps; what the decision remembers is tracked."""
    memory = {"best": float("inf"), "bad": 0}
    model, optimizer = make(run, memory=memory)
    data = Numbers()
    for step in run.steps(10_000):
        one_step(run, step, model, optimizer, data)
        loss = step.merged["loss"]
        memory["bad"] = 0 if loss < memory["best"] - 1e-3 else memory["bad"] + 1
        memory["best"] = min(memory["best"], loss)
        if memory["bad"] >= 6:
            break
    after(run)


def epochs(run: Run) -> None:
    """Three epochs, with an evaluation at the end of each."""
    model, optimizer = make(run)
    data = Numbers()
    for step in run.steps(epochs=3):
        one_step(run, step, model, optimizer, data)
        if step.ends_epoch:
            for x, y, _ in step.evaluate(data):
                step.gather(predicted=model(x).argmax(1), label=y)
            right = step.gathered["predicted"] == step.gathered["label"]
            step.log(accuracy=right.float().mean(), epoch=step.epoch)
    after(run)


def alone(run: Run) -> None:
    """One trainer decides by what only it knows."""
    model, optimizer = make(run)
    data = Numbers()
    for step in run.steps(20):
        one_step(run, step, model, optimizer, data)
        if step.number == 3:
            try:
                os.close(os.open(run.config["mark"], os.O_CREAT | os.O_EXCL))
            except FileExistsError:
                continue
            run.stop()
    after(run)
