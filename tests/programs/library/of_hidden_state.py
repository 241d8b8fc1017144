"""State in places that a loop's variables do not show: iterators, closures, classes, other modules, large values, copies of models."""

import copy
import itertools
import random
from collections import deque

import numpy as np
import torch
import torch.nn.functional as F
from kinds import POINTS, Points, mlp, program
from practice import sgd
from torch import nn
from torch.utils.data import Dataset

import surefoot


def once(model, step, scale=1.0):
    """One round of the plain loop."""
    for x, y in step.batches(POINTS):
        loss = F.cross_entropy(model(x), y) * scale
        loss.backward()
        step.log(loss=loss)


@program(steps=6)
def enumerated_steps(run: surefoot.Run) -> None:
    """The step's number by enumerate, not by step.number."""
    model = mlp()
    optimizer = sgd(model)
    run.track(model=model, optimizer=optimizer)
    for i, step in enumerate(run.steps(run.config["steps"])):
        optimizer.param_groups[0]["lr"] = 0.1 / (1 + i)
        once(model, step)
        optimizer.step()


@program(refused="put run.steps.. first")
def steps_zipped_with_rates(run: surefoot.Run) -> None:
    model = mlp()
    optimizer = sgd(model)
    run.track(model=model, optimizer=optimizer)
    for rate, step in zip(np.linspace(0.1, 0.01, 6), run.steps(run.config["steps"]), strict=False):
        optimizer.param_groups[0]["lr"] = float(rate)
        once(model, step)
        optimizer.step()


@program(steps=6)
def steps_zipped_before_rates(run: surefoot.Run) -> None:
    model = mlp()
    optimizer = sgd(model)
    run.track(model=model, optimizer=optimizer)
    for step, rate in zip(run.steps(run.config["steps"]), itertools.count(1), strict=False):
        optimizer.param_groups[0]["lr"] = 0.1 / rate
        once(model, step)
        optimizer.step()


@program(steps=6)
def steps_through_a_generator(run: surefoot.Run) -> None:
    """A progress wrapper of the user's own that counts."""

    def progress(steps):
        done = 0
        for step in steps:
            yield done, step
            done += 1  # noqa: SIM113  as people write it

    model = mlp()
    optimizer = sgd(model)
    run.track(model=model, optimizer=optimizer)
    for done, step in progress(run.steps(run.config["steps"])):
        optimizer.param_groups[0]["lr"] = 0.1 / (1 + done)
        once(model, step)
        optimizer.step()


@program(steps=6)
def cycle_of_rates(run: surefoot.Run) -> None:
    """next(itertools.cycle) a step."""
    model = mlp()
    optimizer = sgd(model)
    run.track(model=model, optimizer=optimizer)
    rates = itertools.cycle([0.1, 0.05, 0.01])
    for step in run.steps(run.config["steps"]):
        optimizer.param_groups[0]["lr"] = next(rates)
        once(model, step)
        optimizer.step()


@program(steps=6, refused="generator|iterator")
def generator_of_rates(run: surefoot.Run) -> None:
    def warm():
        rate = 0.01
        while True:
            yield rate
            rate *= 1.3

    model = mlp()
    optimizer = sgd(model)
    run.track(model=model, optimizer=optimizer)
    rates = warm()
    for step in run.steps(run.config["steps"]):
        optimizer.param_groups[0]["lr"] = next(rates)
        once(model, step)
        optimizer.step()


@program(steps=6)
def closure_that_counts(run: surefoot.Run) -> None:
    """A schedule made by a function that closes over its counter."""

    def schedule(base):
        n = 0

        def rate():
            nonlocal n
            n += 1
            return base / n

        return rate

    model = mlp()
    optimizer = sgd(model)
    run.track(model=model, optimizer=optimizer)
    rate = schedule(0.1)
    for step in run.steps(run.config["steps"]):
        optimizer.param_groups[0]["lr"] = rate()
        once(model, step)
        optimizer.step()


@program(steps=6)
def default_argument_that_grows(run: surefoot.Run) -> None:
    def smoothed(value, history=[]):  # noqa: B006
        history.append(value)
        return sum(history) / len(history)

    model = mlp()
    optimizer = sgd(model)
    run.track(model=model, optimizer=optimizer)
    for step in run.steps(run.config["steps"]):
        once(model, step)
        optimizer.step()
        optimizer.param_groups[0]["lr"] = 0.05 * smoothed(step.merged["loss"])


@program(steps=6, in_suite=False)
def attribute_of_a_function(run: surefoot.Run) -> None:
    def rate():
        rate.calls += 1
        return 0.1 / rate.calls

    rate.calls = 0
    model = mlp()
    optimizer = sgd(model)
    run.track(model=model, optimizer=optimizer)
    for step in run.steps(run.config["steps"]):
        optimizer.param_groups[0]["lr"] = rate()
        once(model, step)
        optimizer.step()


@program(steps=6)
def attribute_of_a_class(run: surefoot.Run) -> None:
    """A config class whose attributes the loop changes."""

    class Config:
        lr = 0.1

    model = mlp()
    optimizer = sgd(model)
    run.track(model=model, optimizer=optimizer)
    for step in run.steps(run.config["steps"]):
        once(model, step)
        Config.lr *= 0.8
        optimizer.param_groups[0]["lr"] = Config.lr
        optimizer.step()


class Slots:
    __slots__ = ("best", "rate")

    def __init__(self):
        self.best, self.rate = 1e9, 0.1


@program(steps=6)
def object_with_slots(run: surefoot.Run) -> None:
    model = mlp()
    optimizer = sgd(model)
    run.track(model=model, optimizer=optimizer)
    state = Slots()
    for step in run.steps(run.config["steps"]):
        once(model, step)
        state.rate *= 0.8
        optimizer.param_groups[0]["lr"] = state.rate
        optimizer.step()


@program(steps=6)
def objects_in_a_list(run: surefoot.Run) -> None:
    """Callbacks in a list, each with its own counters."""

    class Decay:
        def __init__(self, optimizer):
            self.n, self.optimizer = 0, optimizer

        def __call__(self):
            self.n += 1
            self.optimizer.param_groups[0]["lr"] = 0.1 / self.n

    model = mlp()
    optimizer = sgd(model)
    run.track(model=model, optimizer=optimizer)
    callbacks = [Decay(optimizer)]
    for step in run.steps(run.config["steps"]):
        once(model, step)
        for call in callbacks:
            call()
        optimizer.step()


@program(steps=6, in_suite=False)
def objects_in_a_dict(run: surefoot.Run) -> None:
    class Meter:
        def __init__(self):
            self.total, self.count = 0.0, 0

        def update(self, value):
            self.total, self.count = self.total + value, self.count + 1

        @property
        def mean(self):
            return self.total / self.count

    model = mlp()
    optimizer = sgd(model)
    run.track(model=model, optimizer=optimizer)
    meters = {"loss": Meter()}
    for step in run.steps(run.config["steps"]):
        once(model, step)
        meters["loss"].update(step.merged["loss"])
        optimizer.param_groups[0]["lr"] = 0.05 * meters["loss"].mean
        optimizer.step()


@program(steps=6, in_suite=False)
def large_tensor_changed_between_steps(run: surefoot.Run) -> None:
    """An untracked tensor of 2 MiB, a table of what each sample has cost, say."""
    model = mlp()
    optimizer = sgd(model)
    run.track(model=model, optimizer=optimizer)
    table = torch.ones(1 << 19)
    for step in run.steps(run.config["steps"]):
        once(model, step, table[0].item())
        optimizer.step()
        table *= 0.9


@program(steps=6)
def large_array_written_in_one_place(run: surefoot.Run) -> None:
    model = mlp()
    optimizer = sgd(model)
    run.track(model=model, optimizer=optimizer)
    replay = np.zeros((1 << 17, 4), np.float32)
    for step in run.steps(run.config["steps"]):
        replay[step.number] = step.number + 1
        once(model, step, 1 + float(replay[: step.number + 1].sum()) / 10)
        optimizer.step()


@program(steps=6)
def long_list_that_is_shuffled(run: surefoot.Run) -> None:
    """5,000 numbers in a list: more items than are copied on a look."""
    model = mlp()
    optimizer = sgd(model)
    run.track(model=model, optimizer=optimizer)
    order = list(range(5000))
    for step in run.steps(run.config["steps"]):
        random.shuffle(order)
        once(model, step, 1 + order[0] / 5000)
        optimizer.step()


@program(steps=6)
def large_values_in_an_object(run: surefoot.Run) -> None:
    class Memory:
        def __init__(self):
            self.rows, self.at = torch.zeros(1 << 17, 4), 0

        def add(self, value):
            self.rows[self.at] = value
            self.at += 1

    model = mlp()
    optimizer = sgd(model)
    run.track(model=model, optimizer=optimizer)
    memory = Memory()
    for step in run.steps(run.config["steps"]):
        memory.add(step.number + 1.0)
        once(model, step, 1 + memory.rows.sum().item() / 100)
        optimizer.step()


@program(steps=6, in_suite=False)
def deque_of_models(run: surefoot.Run) -> None:
    """Copies of the model's state in a deque; the mean of the last three is put back."""
    model = mlp()
    optimizer = sgd(model)
    run.track(model=model, optimizer=optimizer)
    last = deque(maxlen=3)
    for step in run.steps(run.config["steps"]):
        once(model, step)
        optimizer.step()
        last.append(copy.deepcopy(model.state_dict()))
        if step.number == 4:
            model.load_state_dict({k: sum(s[k] for s in last) / len(last) for k in last[0]})


@program(steps=6)
def best_model_by_deepcopy_used_later(run: surefoot.Run) -> None:
    """The best model so far is a deepcopy, and teaches the present one."""
    model = mlp()
    optimizer = sgd(model)
    run.track(model=model, optimizer=optimizer)
    best, lowest = None, 1e9
    for step in run.steps(run.config["steps"]):
        for x, y in step.batches(POINTS):
            out = model(x)
            loss = F.cross_entropy(out, y)
            if best is not None:
                loss = loss + F.mse_loss(out, best(x).detach())
            loss.backward()
            step.log(loss=loss)
        optimizer.step()
        if step.merged["loss"] < lowest or step.number == 1:
            lowest, best = step.merged["loss"], copy.deepcopy(model)


@program(steps=6)
def snapshots_of_the_model_in_a_list(run: surefoot.Run) -> None:
    """An ensemble of snapshots, which are used from then on."""
    model = mlp()
    optimizer = sgd(model)
    run.track(model=model, optimizer=optimizer)
    snapshots = []
    for step in run.steps(run.config["steps"]):
        for x, y in step.batches(POINTS):
            out = model(x)
            for old in snapshots:
                with torch.no_grad():
                    soft = old(x).softmax(-1)
                out = out + 0.1 * soft
            loss = F.cross_entropy(out, y)
            loss.backward()
            step.log(loss=loss)
        optimizer.step()
        if step.every(2):
            snapshots.append(copy.deepcopy(model).eval())


@program(steps=6, in_suite=False)
def list_of_losses_by_tensor(run: surefoot.Run) -> None:
    model = mlp()
    optimizer = sgd(model)
    run.track(model=model, optimizer=optimizer)
    losses = []
    for step in run.steps(run.config["steps"]):
        once(model, step)
        losses.append(torch.tensor(step.merged["loss"]))
        optimizer.param_groups[0]["lr"] = 0.05 * torch.stack(losses[-3:]).mean().item()
        optimizer.step()


@program(refused="twice|random|drawn")
def mask_drawn_once(run: surefoot.Run) -> None:
    """A locked dropout that draws its mask when there is none: whoever computes first decides."""

    class Locked(nn.Module):
        def __init__(self):
            super().__init__()
            self.mask = None

        def forward(self, x):
            if self.mask is None:
                self.mask = torch.bernoulli(torch.full((x.shape[-1],), 0.5))
            return x * self.mask

    model = nn.Sequential(nn.Linear(8, 8), Locked(), nn.Linear(8, 3))
    optimizer = sgd(model)
    run.track(model=model, optimizer=optimizer)
    for step in run.steps(run.config["steps"]):
        once(model, step)
        optimizer.step()


class Remembers(Dataset):
    """Draws an augmentation of each sample once, and keeps it."""

    def __init__(self):
        self.cache = {}

    def __len__(self):
        return 100

    def __getitem__(self, i):
        if i not in self.cache:
            self.cache[i] = torch.sin(torch.arange(8) * (i + 1.0)) + torch.randn(8)
        return self.cache[i], i % 3


@program(refused="random|drawn")
def augmentations_drawn_once(run: surefoot.Run) -> None:
    model = mlp()
    optimizer = sgd(model)
    run.track(model=model, optimizer=optimizer)
    data = Remembers()
    for step in run.steps(run.config["steps"]):
        for x, y in step.batches(data):
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            step.log(loss=loss)
        optimizer.step()


class CachesThenDraws(Remembers):
    def __getitem__(self, i):
        if i not in self.cache:
            self.cache[i] = torch.sin(torch.arange(8) * (i + 1.0))
        return self.cache[i] + 0.1 * torch.randn(8), i % 3


@program(steps=8)
def cached_samples_augmented_afterwards(run: surefoot.Run) -> None:
    model = mlp()
    optimizer = sgd(model)
    run.track(model=model, optimizer=optimizer)
    data = CachesThenDraws()
    for step in run.steps(run.config["steps"]):
        for x, y in step.batches(data):
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            step.log(loss=loss)
        optimizer.step()


@program(steps=6)
def reptile_with_one_clone(run: surefoot.Run) -> None:
    """A clone made once, trained in each sub-task by an inner optimizer from the model's weights; the difference is the gradient."""
    model = mlp()
    clone = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    run.track(model=model, optimizer=optimizer)
    for step in run.steps(run.config["steps"]):
        for x, y in step.batches(POINTS):
            clone.load_state_dict(model.state_dict())
            inner = torch.optim.SGD(clone.parameters(), lr=0.05)
            for _ in range(3):
                loss = F.cross_entropy(clone(x), y)
                inner.zero_grad()
                loss.backward()
                inner.step()
            for p, q in zip(model.parameters(), clone.parameters(), strict=True):
                p.grad = (p - q).detach()
            step.log(loss=loss)
        optimizer.step()


@program(steps=6, in_suite=False)
def order_of_samples_by_losses(run: surefoot.Run) -> None:
    """A dataset with a list of indices that the loop changes."""

    class Hard(Points):
        def __init__(self):
            self.keep = list(range(100))

        def __len__(self):
            return len(self.keep)

        def __getitem__(self, i):
            return super().__getitem__(self.keep[i])

    model = mlp()
    optimizer = sgd(model)
    run.track(model=model, optimizer=optimizer)
    data = Hard()
    for step in run.steps(run.config["steps"]):
        for x, y in step.batches(data):
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            step.log(loss=loss)
        optimizer.step()
        data.keep = data.keep[:-5]


@program(steps=6)
def reptile_with_one_inner_optimizer(run: surefoot.Run) -> None:
    """As before, and the inner optimizer is made once too; plain SGD carries nothing."""
    model, clone = mlp(), mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    inner = torch.optim.SGD(clone.parameters(), lr=0.05)
    run.track(model=model, optimizer=optimizer)
    for step in run.steps(run.config["steps"]):
        for x, y in step.batches(POINTS):
            clone.load_state_dict(model.state_dict())
            for _ in range(3):
                inner.zero_grad()
                loss = F.cross_entropy(clone(x), y)
                loss.backward()
                inner.step()
            for p, q in zip(model.parameters(), clone.parameters(), strict=True):
                p.grad = (p - q).detach()
            step.log(loss=loss)
        optimizer.step()


@program(refused="twice|track")
def clone_that_is_not_set_back(run: surefoot.Run) -> None:
    model, clone = mlp(), mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    inner = torch.optim.SGD(clone.parameters(), lr=0.05)
    run.track(model=model, optimizer=optimizer)
    for step in run.steps(run.config["steps"]):
        for x, y in step.batches(POINTS):
            inner.zero_grad()
            loss = F.cross_entropy(clone(x), y)
            loss.backward()
            inner.step()
            for p, q in zip(model.parameters(), clone.parameters(), strict=True):
                p.grad = (p - q).detach()
            step.log(loss=loss)
        optimizer.step()


@program(refused="random", data_workers=1)
def augmentations_drawn_once_by_workers(run: surefoot.Run) -> None:
    model = mlp()
    optimizer = sgd(model)
    run.track(model=model, optimizer=optimizer)
    data = Remembers()
    for step in run.steps(run.config["steps"]):
        for x, y in step.batches(data):
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            step.log(loss=loss)
        optimizer.step()
