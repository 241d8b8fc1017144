"""Train functions that break a rule of the contract, one each. Files named by config["told"] get the pid of who computes."""

import contextlib
import os

import torch
import torch.nn.functional as F
from torch import nn

import surefoot


class Numbers(torch.utils.data.Dataset):
    def __init__(self, length=64):
        self.length = length

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        return torch.sin(torch.arange(6) * (index + 1.0)), index % 3, index


class Endless(torch.utils.data.IterableDataset):
    def __iter__(self):
        while True:
            yield torch.zeros(6), 0, 0


def setup(run):
    model = nn.Linear(6, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    run.track(model=model, optimizer=optimizer)
    return model, optimizer


def only_once(run, name):
    """Whether this process is the first to ask: so that trainers can be made to differ."""
    try:
        os.close(os.open(os.path.join(run.config["folder"], name), os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return False
    return True


def breaks_early(run: surefoot.Run) -> None:
    model, optimizer = setup(run)
    for _step in run.steps(4):
        for x, y, _ in _step.batches(Numbers()):
            F.cross_entropy(model(x), y).backward()
            break
        optimizer.step()  # MARK


def steps_inside(run: surefoot.Run) -> None:
    model, optimizer = setup(run)
    for step in run.steps(4):
        for x, y, _ in step.batches(Numbers()):
            F.cross_entropy(model(x), y).backward()
            optimizer.step()  # MARK


def logs_sometimes(run: surefoot.Run) -> None:
    model, optimizer = setup(run)
    for step in run.steps(4):
        for n, (x, y, _) in enumerate(step.batches(Numbers())):
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            if n == 0 and step.number == 2:
                step.log(loss=loss)  # MARK
        optimizer.step()


def logs_by_sub_task(run: surefoot.Run) -> None:
    """Each trainer's own sub-tasks agree; only the trainers do not."""
    model, optimizer = setup(run)
    name = "mine" if only_once(run, "name") else "yours"
    for step in run.steps(4):
        for x, y, _ in step.batches(Numbers()):
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            step.log(**{name: loss})  # MARK
        optimizer.step()


def tracks_nothing(run: surefoot.Run) -> None:
    for _ in run.steps(4):  # MARK
        pass


def tracks_no_model(run: surefoot.Run) -> None:
    """The optimizer brings its parameters along, but another model's are nobody's."""
    model, other = nn.Linear(6, 3), nn.Linear(6, 6)
    optimizer = torch.optim.SGD(other.parameters(), lr=0.1)
    run.track(model=model)
    for step in run.steps(4):
        for x, y, _ in step.batches(Numbers()):  # MARK
            F.cross_entropy(model(other(x)), y).backward()
        optimizer.step()


def logs_a_vector(run: surefoot.Run) -> None:
    model, optimizer = setup(run)
    for step in run.steps(4):
        for x, y, _ in step.batches(Numbers()):
            loss = F.cross_entropy(model(x), y, reduction="none")
            loss.mean().backward()
            step.log(loss=loss)  # MARK
        optimizer.step()


class Grows(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(6, 3)
        self.register_buffer("seen", torch.zeros(1))

    def forward(self, x, more):
        self.seen = torch.cat([self.seen, x.mean().view(1)]) if more else self.seen + x.mean()
        return self.linear(x)


def buffer_changes_shape(run: surefoot.Run) -> None:
    model = Grows()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    run.track(model=model, optimizer=optimizer)
    for step in run.steps(4):
        for n, (x, y, _) in enumerate(step.batches(Numbers())):
            F.cross_entropy(model(x, n == 1 and step.number == 2), y).backward()
        optimizer.step()


def drifts(run: surefoot.Run) -> None:
    """One trainer alone adds noise to a parameter, outside the sub-tasks."""
    model, optimizer = setup(run)
    alone = only_once(run, "drift")
    for step in run.steps(8):
        for x, y, _ in step.batches(Numbers()):
            F.cross_entropy(model(x), y).backward()
        optimizer.step()
        if alone and step.number == 2:
            with torch.no_grad():
                model.bias[0] += 1e-3


def other_number_of_steps(run: surefoot.Run) -> None:
    model, optimizer = setup(run)
    for step in run.steps(4 if only_once(run, "steps") else 6):
        for x, y, _ in step.batches(Numbers()):
            F.cross_entropy(model(x), y).backward()
        optimizer.step()


def rounds_by_rank(run: surefoot.Run) -> None:
    model, optimizer = setup(run)
    more = only_once(run, "rounds")
    for step in run.steps(4):
        for x, y, _ in step.batches(Numbers()):
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            step.log(loss=loss)
        optimizer.step()
        if more and step.number == 2:
            for x, y, _ in step.evaluate(Numbers()):
                step.log(accuracy=F.cross_entropy(model(x), y))


def iterable(run: surefoot.Run) -> None:
    model, optimizer = setup(run)
    for step in run.steps(4):
        for x, y, _ in step.batches(Endless()):  # MARK
            F.cross_entropy(model(x), y).backward()
        optimizer.step()


def other_length(run: surefoot.Run) -> None:
    model, optimizer = setup(run)
    data = Numbers(64 if only_once(run, "length") else 96)
    for step in run.steps(4):
        for x, y, _ in step.batches(data):  # MARK
            F.cross_entropy(model(x), y).backward()
        optimizer.step()


def other_order(run: surefoot.Run) -> None:
    model, optimizer = setup(run)
    order = range(64) if only_once(run, "order") else [3, 1, 2]
    for step in run.steps(4):
        for x, y, _ in step.batches(Numbers(), sampler=order):  # MARK
            F.cross_entropy(model(x), y).backward()
        optimizer.step()


def leaves_the_loop(run: surefoot.Run) -> None:
    """By an exception that it catches outside: nobody can tell that from a fault."""
    model, optimizer = setup(run)
    with contextlib.suppress(KeyError):
        for step in run.steps(9):  # MARK
            for x, y, _ in step.batches(Numbers()):
                F.cross_entropy(model(x), y).backward()
            optimizer.step()
            if step.number == 2:
                raise KeyError


def other_model(run: surefoot.Run) -> None:
    """Each trainer builds a model of its own size."""
    wide = 6 if only_once(run, "model") else 7
    model = nn.Sequential(nn.Linear(6, wide), nn.Linear(wide, 3))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    run.track(model=model, optimizer=optimizer)
    for step in run.steps(4):
        for x, y, _ in step.batches(Numbers()):
            F.cross_entropy(model(x), y).backward()
        optimizer.step()
