"""Data sets: of user's code, with transforms that draw, with open files, changed by the loop; collates of every kind."""

import functools
import os
import struct
import tempfile

import numpy as np
import torch
import torch.nn.functional as F
from kinds import Points, fit, mlp, program
from torch.utils.data import Subset

import surefoot


def sgd(model):
    return torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)


class Drawing(Points):
    """Transforms that draw from torch, numpy and random."""

    def __getitem__(self, i):
        import random

        x, y = super().__getitem__(i)
        return x * (1 + 0.1 * random.random()) + 0.1 * float(np.random.randn()) + 0.1 * torch.randn(8), y


class Stages(Points):
    """A curriculum: what a sample is depends on an attribute that the loop sets."""

    stage = 0

    def set_epoch(self, epoch):
        self.stage = epoch

    def __getitem__(self, i):
        x, y = super().__getitem__(i)
        return x + 0.3 * self.stage, y


class Growing(Points):
    """A data set that grows."""

    length = 40

    def __len__(self):
        return self.length


class Remembering(Points):
    """A data set that keeps what it has loaded: a cache, which changes nothing."""

    def __init__(self):
        self.cache = {}

    def __getitem__(self, i):
        if i not in self.cache:
            self.cache[i] = super().__getitem__(i)
        return self.cache[i]


class Counting(Points):
    """A data set whose samples depend on how many were loaded before: never the same on two trainers."""

    loaded = 0

    def __getitem__(self, i):
        self.loaded += 1
        x, y = super().__getitem__(i)
        return x + 0.01 * self.loaded, y


class Records(torch.utils.data.Dataset):
    """Opens its file once."""

    def __init__(self):
        handle, self.path = tempfile.mkstemp(prefix="sf-records-")
        with os.fdopen(handle, "wb") as file:
            for i in range(100):
                file.write(struct.pack("<i8f", i % 3, *np.sin(np.arange(8) * (i + 1.0))))
        self.file = open(self.path, "rb")
        os.unlink(self.path)

    def __len__(self):
        return 100

    def __getitem__(self, i):
        self.file.seek(i * 36)
        label, *numbers = struct.unpack("<i8f", self.file.read(36))
        return torch.tensor(numbers), label


class Lists(Points):
    """Samples of different length, so that a batch is padded."""

    def __getitem__(self, i):
        return torch.sin(torch.arange(i % 5 + 2) * (i + 1.0)), i % 3


class Arrays(Points):
    """Samples that are views at odd addresses of one array."""

    rows = torch.sin(torch.arange(901.0))

    def __getitem__(self, i):
        return self.rows[i * 9 + 1 : i * 9 + 9], i % 3


def pad(items):
    """Pad to the longest."""
    xs = [F.pad(x, (0, 8 - len(x))) for x, _ in items]
    return torch.stack(xs), torch.tensor([y for _, y in items])


def odd(items):
    """Make a batch that begins four bytes into its memory, whoever makes it."""
    flat = torch.cat([torch.zeros(1), *(x for x, _ in items)])
    return flat[1:].view(len(items), 8), torch.tensor([y for _, y in items])


class Collator:
    def __init__(self, scale):
        self.scale = scale

    def __call__(self, items):
        x, y = pad(items)
        return x * self.scale, y

    def collate(self, items):
        return self(items)


def collated(run, data, collate):
    model = mlp(17)
    optimizer = sgd(model)
    run.track(model=model, optimizer=optimizer)
    for step in run.steps(run.config["steps"]):
        for x, y in step.batches(data, collate=collate() if getattr(collate, "fresh", False) else collate):
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            step.log(loss=loss)
        optimizer.step()


def _both(name, train, **how):
    """List a program twice: loading in the training thread, and by two data workers."""
    for workers in (0, 2):

        def again(run, train=train):
            train(run)

        full = f"{name}{'_workers' if workers else ''}"
        again.__name__ = again.__qualname__ = full
        globals()[full] = program(data_workers=workers, **how)(again)


def drawing_transforms(run: surefoot.Run) -> None:
    model = mlp()
    fit(run, model, sgd(model), data=Drawing())


def set_epoch(run: surefoot.Run) -> None:
    model, data = mlp(), Stages()
    fit(run, model, sgd(model), data=data, before=lambda step: data.set_epoch(step.number // 2))


def set_epoch_of_a_subset(run: surefoot.Run) -> None:
    """The data set that changes lies inside another one."""
    model, data = mlp(), Stages()
    inner = Subset(data, list(range(0, 100, 2)))
    fit(run, model, sgd(model), data=inner, before=lambda step: data.set_epoch(step.number // 2))


def curriculum_from_merged_values(run: surefoot.Run) -> None:
    """What a stage is was decided by earlier steps: a joiner cannot compute it."""
    model, data = mlp(), Stages()

    def after(step):
        data.stage += step.merged["loss"]

    fit(run, model, sgd(model), data=data, after=after)


def growing_data(run: surefoot.Run) -> None:
    model, data = mlp(), Growing()

    def before(step):
        data.length = 40 + 10 * step.number

    fit(run, model, sgd(model), data=data, before=before)


def growing_data_after_the_step(run: surefoot.Run) -> None:
    model, data = mlp(), Growing()

    def after(step):
        data.length += 10

    fit(run, model, sgd(model), data=data, after=after)


def caching_data(run: surefoot.Run) -> None:
    model = mlp()
    fit(run, model, sgd(model), data=Remembering())


def open_file(run: surefoot.Run) -> None:
    model = mlp()
    fit(run, model, sgd(model), data=Records())


def samples_at_odd_addresses(run: surefoot.Run) -> None:
    model = mlp(17)
    fit(run, model, sgd(model), data=Arrays())


def collate_function(run: surefoot.Run) -> None:
    collated(run, Lists(), pad)


def collate_at_odd_addresses(run: surefoot.Run) -> None:
    collated(run, Points(), odd)


def collate_lambda(run: surefoot.Run) -> None:
    model, scale = mlp(17), 0.5
    optimizer, data = sgd(model), Lists()
    run.track(model=model, optimizer=optimizer)
    for step in run.steps(run.config["steps"]):
        for x, y in step.batches(
            data, collate=lambda items: tuple(t * scale if t.is_floating_point() else t for t in pad(items))
        ):
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            step.log(loss=loss)
        optimizer.step()


def collate_bound_method(run: surefoot.Run) -> None:
    model, collator, data = mlp(17), Collator(0.5), Lists()
    optimizer = sgd(model)
    run.track(model=model, optimizer=optimizer)
    for step in run.steps(run.config["steps"]):
        for x, y in step.batches(data, collate=collator.collate):
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            step.log(loss=loss)
        optimizer.step()


def collate_changed_by_the_loop(run: surefoot.Run) -> None:
    """The collator's scale is set from the step's number."""
    model, collator, data = mlp(17), Collator(0.5), Lists()
    optimizer = sgd(model)
    run.track(model=model, optimizer=optimizer)
    for step in run.steps(run.config["steps"]):
        collator.scale = 0.5 + 0.1 * step.number
        for x, y in step.batches(data, collate=collator):
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            step.log(loss=loss)
        optimizer.step()


def collate_partial(run: surefoot.Run) -> None:
    model, data = mlp(17), Lists()
    optimizer = sgd(model)
    run.track(model=model, optimizer=optimizer)
    for step in run.steps(run.config["steps"]):
        for x, y in step.batches(data, collate=functools.partial(pad)):
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            step.log(loss=loss)
        optimizer.step()


def data_set_made_every_step(run: surefoot.Run) -> None:
    model = mlp()
    optimizer = sgd(model)
    run.track(model=model, optimizer=optimizer)
    for step in run.steps(run.config["steps"]):
        data = Subset(Points(), list(range(step.number, 100)))
        for x, y in step.batches(data):
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            step.log(loss=loss)
        optimizer.step()


def data_set_that_holds_the_model(run: surefoot.Run) -> None:
    """Samples computed from the present weights, as in reinforcement learning and hard negatives."""
    model = mlp()

    class Own(Points):
        def __getitem__(self, i):
            x, y = super().__getitem__(i)
            with torch.no_grad():
                return x + model(x).sum(), y

    fit(run, model, sgd(model), data=Own())


for _train in (
    drawing_transforms, set_epoch, set_epoch_of_a_subset, curriculum_from_merged_values, growing_data,
    growing_data_after_the_step, caching_data, open_file, samples_at_odd_addresses, collate_function,
    collate_at_odd_addresses, collate_lambda, collate_bound_method, collate_changed_by_the_loop, collate_partial,
    data_set_made_every_step, data_set_that_holds_the_model,
):  # fmt: skip
    _both(_train.__name__, _train, steps=5)
