"""A train function that has all that could go wrong with bits: BatchNorm, Dropout, numpy noise, a scheduler, clipping, two rounds.

Each sub-task computed appends a line "step samples pid" to the file in config["computed"], if there is one.
"""

import os
import signal

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

import surefoot
from surefoot_actors.engine.exchange import plan


class Numbers(torch.utils.data.Dataset):
    def __len__(self):
        return 100

    def __getitem__(self, index):
        x = torch.sin(torch.arange(12) * (index + 1.0)) + 0.01 * float(np.random.randn())
        return x, index % 3, index


def note(run, step, index):
    path = run.config.get("computed")
    if path and not run._loop.open.repeats:  # what is computed only to be compared is no sub-task done twice
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        samples = ",".join(str(int(i)) for i in index)
        os.write(handle, f"{step.number} {samples} {os.getpid()}\n".encode())
        os.close(handle)


def make(config):
    width = config.get("width", 24)
    model = nn.Sequential(nn.Linear(12, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Dropout(0.3), nn.Linear(width, 3))
    if config.get("optimizer", "adamw") == "sgd":
        return model, torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    return model, torch.optim.AdamW(model.parameters(), lr=0.01)


def train(run: surefoot.Run) -> None:
    if run.config.get("two_phases"):
        plan.ONE_PHASE_BYTES = 0
    model, optimizer = make(run.config)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 3, 0.7)
    run.track(model=model, optimizer=optimizer, scheduler=scheduler)
    data = Numbers()
    for step in run.steps(run.config["steps"]):
        for x, y, index in step.batches(data):
            note(run, step, index)
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            step.log(loss=loss)
            hold(run, step)
            hog(run, step)
        if run.config.get("prints"):
            print(f"line {step.number}")
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        scheduler.step()
        if step.every(3) and not run.config.get("plain"):
            for x, y, _ in step.evaluate(data):
                step.log(accuracy=(model(x).argmax(1) == y).float().mean())
    if "after" in run.config:
        with open(run.config["after"], "a") as file:
            file.write(f"{os.getpid()}\n")


def hold(run, step):
    """Wait at steps until the test opens their gates, which are files."""
    for number, path in run.config.get("gates", [run.config["gate"]] if "gate" in run.config else []):
        if step.number == number:
            import time

            while not os.path.exists(path):
                time.sleep(0.005)
    if "IN_TURN" in os.environ:
        wait_for_checkpoints(step)


def wait_for_checkpoints(step):
    """Wait until the checkpoint that was due last is made, since what comes due while one is being made is saved at a later step."""
    import time
    from pathlib import Path

    every, folder = os.environ["IN_TURN"].split(":", 1)
    due = step.number // int(every) * int(every)
    # in the environment, as what differs by trainer must be in nothing that joiners take over
    began = int(os.environ.setdefault("IN_TURN_BEGAN", str(step.number)))
    while due > began and newest(Path(folder)) < due:
        time.sleep(0.005)


def newest(folder):
    """The step of the newest whole checkpoint."""
    return max((int(path.parent.name[5:]) for path in folder.glob("step-*/manifest.json")), default=0)


def hog(run, step):
    """The first trainer that comes here at step 3 takes all the memory that it can get, if it is told to."""
    if "hog" in run.config and step.number == 3:
        try:
            handle = os.open(run.config["hog"], os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            return
        os.write(handle, str(os.getpid()).encode())
        os.close(handle)
        taken = []
        while True:
            taken.append(b"x" * 50_000_000)


def raises(run: surefoot.Run) -> None:
    model, optimizer = make(run.config)
    run.track(model=model, optimizer=optimizer)
    for step in run.steps(5):
        for x, y, _ in step.batches(Numbers()):
            F.cross_entropy(model(x), y).backward()
            if step.number == 2:
                raise RuntimeError("the user's own mistake")
        optimizer.step()


def poisoned(run: surefoot.Run) -> None:
    """Sub-task 5 of step 3 kills whoever computes it."""
    model, optimizer = make(run.config)
    run.track(model=model, optimizer=optimizer)
    for step in run.steps(5):
        for x, y, index in step.batches(Numbers()):
            if step.number == 3 and first_of(run, 3, 5) == int(index[0]):
                os.kill(os.getpid(), signal.SIGKILL)
            F.cross_entropy(model(x), y).backward()
        optimizer.step()


def first_of(run, step, sub_task):
    """The first sample of a sub-task."""
    from surefoot_actors.engine.data.sampler import Sampler

    sampler = Sampler(seed=run.seed, batch_size=run.batch_size, sub_tasks=run.sub_tasks)
    return int(sampler.indices(len(Numbers()), step, sub_task)[0])
