"""One function a planted violation; `clean` has none. Each keeps the contract's letter, so only the bits tell."""

import json
import os
import random
import sqlite3
import time
from datetime import datetime
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

import surefoot

calls = 0
NAMES = {"alpha", "beta", "gamma", "delta", "epsilon", "zeta"}


class Numbers(torch.utils.data.Dataset):
    def __len__(self):
        return 64

    def __getitem__(self, index):
        return torch.sin(torch.arange(6) * (index + 1.0)), index % 3


def loop(run, alter=lambda loss, step: loss, between=lambda step: None, tracked=()):
    model = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, 3))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    run.track(model=model, optimizer=optimizer)
    data = Numbers()
    for step in run.steps(50):
        for x, y in step.batches(data):
            loss = alter(F.cross_entropy(model(x), y), step)
            loss.backward()
            step.log(loss=loss)
        optimizer.step()
        between(step)


def reads(run: surefoot.Run) -> None:
    """Takes the loss's factor from its data, by way of what one trainer of the node has made of it."""
    made = run.cache_dir / "factor"
    run.node_once(lambda: made.write_text((run.data["train"] / "factor.txt").read_text()))
    loop(run, lambda loss, step: loss * float(made.read_text()))


def clean(run: surefoot.Run) -> None:
    """Reads clocks, draws entropy, counts and writes files, but lets nothing of it into the result."""
    began, printed = time.perf_counter(), 0

    def tell(step):
        nonlocal printed
        printed += 1
        Path("runs").mkdir(exist_ok=True)
        for name in (f"runs/{step.number}.txt", "notes.txt"):
            with open(name, "a") as file:
                file.write("trained\n")
        if run.elected:
            with (run.output_dir / "steps.txt").open("a") as file:
                file.write("trained\n")
        print(
            f"{datetime.now()} pid {os.getpid()} step {step.number} {time.perf_counter() - began:.1f} s {os.urandom(4).hex()}"
        )

    loop(
        run, lambda loss, step: loss * (1 + 0.1 * torch.rand(()) + 0.1 * np.random.rand() + 0.1 * random.random()), tell
    )


def numpy_rng(run: surefoot.Run) -> None:
    rng = np.random.default_rng()
    loop(run, lambda loss, step: loss * (1 + rng.random()))


def system_random(run: surefoot.Run) -> None:
    source = random.SystemRandom()
    loop(run, lambda loss, step: loss * (1 + source.random()))


def urandom(run: surefoot.Run) -> None:
    loop(run, lambda loss, step: loss * (1 + os.urandom(1)[0] / 256))


def pid_generator(run: surefoot.Run) -> None:
    generator = torch.Generator().manual_seed(os.getpid())
    loop(run, lambda loss, step: loss * (1 + torch.rand((), generator=generator)))


def counter(run: surefoot.Run) -> None:
    def alter(loss, step):
        global calls
        calls += 1
        return loss * (1 + 0.01 * calls)

    loop(run, alter)


def seeded_generator(run: surefoot.Run) -> None:
    rng = np.random.default_rng(run.seed)
    loop(run, lambda loss, step: loss * (1 + rng.random()))


def clock(run: surefoot.Run) -> None:
    loop(run, lambda loss, step: loss * (1 + time.time() % 1))


def stopwatch(run: surefoot.Run) -> None:
    began = time.perf_counter()
    loop(run, lambda loss, step: loss * (2 if time.perf_counter() - began > 60 else 1))


def date(run: surefoot.Run) -> None:
    loop(run, lambda loss, step: loss * (1 + datetime.now().microsecond / 1e6))


def strings(run: surefoot.Run) -> None:
    weights = {}
    for place, name in enumerate(NAMES):  # the order of a set
        weights[name] = 1.0 + place
    loop(run, lambda loss, step: loss * weights["alpha"])


def scheduler(run: surefoot.Run) -> None:
    model = nn.Linear(6, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.1, total_steps=50)
    run.track(model=model, optimizer=optimizer)
    for step in run.steps(50):
        for x, y in step.batches(Numbers()):
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            step.log(loss=loss)
        optimizer.step()
        schedule.step()


def late_scheduler(run: surefoot.Run) -> None:
    """Changes nothing in the few steps that are tried, yet is no less wrong."""
    model = nn.Linear(6, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 30)
    run.track(model=model, optimizer=optimizer)
    for step in run.steps(50):
        for x, y in step.batches(Numbers()):
            F.cross_entropy(model(x), y).backward()
        optimizer.step()
        schedule.step()


class hidden:
    """Hold a value where nothing looks, so that joiners are not given it: in a database in this process's memory."""

    def __init__(self, value):
        self._held = sqlite3.connect(":memory:")
        self._held.execute("create table held (value)")
        self._held.execute("insert into held values (?)", [json.dumps(value)])

    def __getitem__(self, _):
        return json.loads(self._held.execute("select value from held").fetchone()[0])

    def __setitem__(self, _, value):
        self._held.execute("update held set value = ?", [json.dumps(value)])


def warmup(run: surefoot.Run) -> None:
    """Carries a plain number from step to step."""
    model = nn.Linear(6, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    run.track(model=model, optimizer=optimizer)
    done = hidden(1.0)
    for step in run.steps(50):
        done[0] *= 2
        for x, y in step.batches(Numbers()):
            (F.cross_entropy(model(x), y) / done[0]).backward()
        optimizer.step()


def breaks(run: surefoot.Run) -> None:
    model = nn.Linear(6, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    run.track(model=model, optimizer=optimizer)
    for step in run.steps(50):
        for x, y in step.batches(Numbers()):
            F.cross_entropy(model(x), y).backward()
            break
        optimizer.step()


class Longer(Numbers):
    """Ten steps an epoch."""

    def __len__(self):
        return 160


def plain(run, data, alter=lambda loss, step: loss, before=lambda step, model: None):
    model = nn.Sequential(nn.Linear(6, 4), nn.Linear(4, 3))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    run.track(model=model, optimizer=optimizer)
    for step in run.steps(50):
        before(step, model)
        for x, y in step.batches(data):
            alter(F.cross_entropy(model(x), y), step).backward()
        optimizer.step()
        optimizer.zero_grad()


def halves_after_an_epoch(run: surefoot.Run) -> None:
    scale = hidden(1.0)

    def before(step, model):
        if step.number and step.number % 10 == 0:
            scale[0] /= 2

    plain(run, Longer(), lambda loss, step: loss * scale[0], before)


def unfreezes_by_a_counter(run: surefoot.Run) -> None:
    """A joiner counts its own steps, and so unfreezes at another one."""
    made = hidden(0)

    def before(step, model):
        if step.number % 10 == 9:
            made[0] += 1
        model[0].weight.requires_grad_(made[0] > 0)

    plain(run, Longer(), before=before)


def raises(run: surefoot.Run) -> None:
    plain(run, Numbers(), lambda loss, step: loss * {}["missing"])


def raises_for_joiners(run: surefoot.Run) -> None:
    scale = hidden({})

    def before(step, model):
        if step.number == 0:
            scale[0] = {"value": 0.5}

    plain(run, Numbers(), lambda loss, step: loss * scale[0]["value"], before)


def dies(run: surefoot.Run) -> None:
    os._exit(3)


def hangs(run: surefoot.Run) -> None:
    time.sleep(600)
