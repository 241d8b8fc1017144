"""What is filled when it is first needed: by the first batch, which is another one on every trainer, or by what the state is then."""

import copy
import functools

import torch
import torch.nn.functional as F
from kinds import POINTS, mlp, program
from practice import begun, inner
from torch import nn
from torch.utils.data import Dataset

import surefoot


@program(refused="gave other bits once sub-task 1")
def normalised_by_the_first_batch(run: surefoot.Run) -> None:
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.mean = mlp(), None

        def forward(self, x):
            if self.mean is None:
                self.mean = x.mean(0)
            return self.body(x - self.mean)

    model, optimizer = begun(run, Net())
    for step in run.steps(run.config["steps"]):
        inner(model, step)
        optimizer.step()


@program(refused="gave other bits once sub-task 1", in_suite=False)
def divided_by_the_first_loss(run: surefoot.Run) -> None:
    """GradNorm's initial losses."""
    model, optimizer = begun(run)
    first = None
    for step in run.steps(run.config["steps"]):
        for x, y in step.batches(POINTS):
            loss = F.cross_entropy(model(x), y)
            if first is None:
                first = loss.detach()
            (loss / first).backward()
            step.log(loss=loss)
        optimizer.step()


@program(refused="gave other bits once sub-task 1")
def centred_where_there_was_no_attribute(run: surefoot.Run) -> None:
    """Deep SVDD, whose center is taken from the first features."""

    class Distance:
        first = True

        def __call__(self, z):
            if self.first:
                self.center, self.first = z.mean(0).detach(), False
            return ((z - self.center) ** 2).mean()

    model, optimizer = begun(run)
    distance = Distance()
    for step in run.steps(run.config["steps"]):
        for x, _ in step.batches(POINTS):
            loss = distance(model(x))
            loss.backward()
            step.log(loss=loss)
        optimizer.step()


class Words(Dataset):
    def __len__(self):
        return 100

    def __getitem__(self, i):
        return [f"w{(i * 7 + k) % 31}" for k in range(4)], i % 3


@program(refused="gave other bits once sub-task 1")
def vocabulary_that_grows_in_collate(run: surefoot.Run) -> None:
    vocabulary = {"<pad>": 0}

    def collate(items):
        numbers = [[vocabulary.setdefault(word, len(vocabulary)) for word in words] for words, _ in items]
        return torch.tensor(numbers), torch.tensor([y for _, y in items])

    model, optimizer = begun(run, nn.Sequential(nn.Embedding(40, 4), nn.Flatten(), nn.Linear(16, 3)))
    for step in run.steps(run.config["steps"]):
        inner(model, step, Words(), collate=collate)
        optimizer.step()


@program(refused="gave other bits once sub-task", sub_tasks=1)
def first_batch_of_a_step_of_one(run: surefoot.Run) -> None:
    """A step has one sub-task: one trainer's first batch is the next step's on a joiner."""
    model, optimizer = begun(run)
    found = {}
    for step in run.steps(run.config["steps"]):
        for x, y in step.batches(POINTS):
            if "mean" not in found:
                found["mean"] = x.mean(0)
            loss = F.cross_entropy(model(x - found["mean"]), y)
            loss.backward()
            step.log(loss=loss)
        optimizer.step()


@program(refused="computed twice")
def two_batches_by_turns(run: surefoot.Run) -> None:
    """What is carried on comes back to where it was after two sub-tasks."""
    model, optimizer = begun(run)
    sign = 1.0
    for step in run.steps(run.config["steps"]):
        for x, y in step.batches(POINTS):
            loss = F.cross_entropy(model(x * sign), y)
            sign = -sign
            loss.backward()
            step.log(loss=loss)
        optimizer.step()


@program(steps=6)
def first_weights_kept_in_the_inner_loop(run: surefoot.Run) -> None:
    """L2-SP: the weights at the beginning, copied when the penalty is first asked for."""

    class Penalty:
        def __init__(self):
            self.start = None

        def __call__(self, model):
            if self.start is None:
                self.start = [p.detach().clone() for p in model.parameters()]
            return sum(((p - q) ** 2).sum() for p, q in zip(model.parameters(), self.start, strict=True))

    model, optimizer = begun(run)
    penalty = Penalty()
    for step in run.steps(run.config["steps"]):
        for x, y in step.batches(POINTS):
            loss = F.cross_entropy(model(x), y) + 0.1 * penalty(model)
            loss.backward()
            step.log(loss=loss)
        optimizer.step()


def _teacher_copied(at):
    def train(run: surefoot.Run) -> None:
        model, optimizer = begun(run)
        teacher = None
        for step in run.steps(run.config["steps"]):
            for x, y in step.batches(POINTS):
                loss = F.cross_entropy(model(x), y)
                if step.number >= at:
                    if teacher is None:
                        teacher = copy.deepcopy(model).eval()
                    with torch.no_grad():
                        soft = teacher(x).softmax(1)
                    loss = loss + F.cross_entropy(model(x), soft)
                loss.backward()
                step.log(loss=loss)
            optimizer.step()

    train.__name__ = train.__qualname__ = f"teacher_copied_in_the_inner_loop_{at}"
    program(steps=8, in_suite=at > 0)(train)


for _at in (0, 4):
    _teacher_copied(_at)


@program(steps=6)
def weights_of_classes_kept_by_a_cached_property(run: surefoot.Run) -> None:
    """They were computed once, and are not computed again when the counts change."""

    class Balance:
        def __init__(self):
            self.counts = torch.ones(3)

        @functools.cached_property
        def weights(self):
            return 1 / self.counts

    model, optimizer = begun(run)
    balance = Balance()
    for step in run.steps(run.config["steps"]):
        for x, y in step.batches(POINTS):
            loss = F.cross_entropy(model(x), y, weight=balance.weights)
            loss.backward()
            step.log(loss=loss)
        optimizer.step()
        balance.counts = balance.counts + torch.tensor([1.0, 2.0, 3.0])
