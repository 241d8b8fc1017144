"""Train functions that raise on one trainer, or end in ways of their own."""

import os
import sys

import torch
import torch.nn.functional as F
from deadly import begins
from small import Numbers, hold

import surefoot


def train(run: surefoot.Run) -> None:
    """Read a table before the steps, as scripts do; raise as config["raises"] says: [place, step], once, on whoever comes first."""
    table = torch.load(run.config["table"]) if "table" in run.config else torch.ones(1)
    model = torch.nn.Linear(12, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    run.track(model=model, optimizer=optimizer)
    for step in run.steps(run.config["steps"]):
        for x, y, _ in step.batches(Numbers()):
            loss = F.cross_entropy(model(x * table), y)
            loss.backward()
            hold(run, step)
            once(run, "sub-task", step)
        optimizer.step()
        once(run, "step", step)
    once(run, "after", None)


def once(run: surefoot.Run, place, step):
    where, number, mark = run.config.get("raises", ["", 0, ""])
    if where == place and (step is None or step.number == number) and begins(mark):
        raise OSError(28, "No space left on device", "/somewhere")


def leaves(run: surefoot.Run) -> None:
    model = torch.nn.Linear(12, 3)
    run.track(model=model)
    for step in run.steps(5):
        if step.number == 2:
            sys.exit(0)
        for x, y, _ in step.batches(Numbers()):
            F.cross_entropy(model(x), y).backward()


def ends_the_process(run: surefoot.Run) -> None:
    model = torch.nn.Linear(12, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    run.track(model=model, optimizer=optimizer)
    for step in run.steps(5):
        for x, y, _ in step.batches(Numbers()):
            F.cross_entropy(model(x), y).backward()
            if step.number == 2:
                os._exit(3)
        optimizer.step()


def breaks_surefoot(run: surefoot.Run) -> None:
    """Break an assertion of Surefoot's own, in the machine of this trainer, at step 2."""
    from surefoot_actors.protocol.member import machine

    model = torch.nn.Linear(12, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    run.track(model=model, optimizer=optimizer)
    sound = machine.apply

    def broken(state, event):
        assert not isinstance(event, machine.LeafMade), "broken on purpose"
        return sound(state, event)

    for step in run.steps(run.config["steps"]):
        for x, y, _ in step.batches(Numbers()):
            F.cross_entropy(model(x), y).backward()
            if step.number == 2:
                machine.apply = broken
        optimizer.step()
