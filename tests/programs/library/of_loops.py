"""Loops of many shapes: several rounds, several optimizers, clipping, evaluation, weights, autocast, randomness outside of rounds."""

import random

import numpy as np
import torch
import torch.nn.functional as F
from kinds import IMAGES, POINTS, Points, fit, mlp, program, waves
from torch import nn
from torch.utils.data import TensorDataset

import surefoot

OTHERS = TensorDataset(waves(64, 8).cos(), torch.arange(64) % 3)


@program(steps=6)
def gan(run: surefoot.Run) -> None:
    """Two models, two optimizers, two rounds a step."""
    maker, judge = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Tanh()), mlp()
    first = torch.optim.Adam(maker.parameters(), lr=0.01, betas=(0.5, 0.9))
    second = torch.optim.Adam(judge.parameters(), lr=0.01)
    run.track(maker=maker, judge=judge, first=first, second=second)
    for step in run.steps(run.config["steps"]):
        for x, y in step.batches(POINTS):
            fake = maker(torch.randn(len(x), 4)).detach()
            loss = F.cross_entropy(judge(x), y) + judge(fake).pow(2).mean()
            loss.backward()
            step.log(judge=loss)
        second.step()
        judge.requires_grad_(False)
        for x, _ in step.batches(POINTS):
            loss = F.cross_entropy(judge(maker(torch.randn(len(x), 4))), torch.zeros(len(x), dtype=torch.long))
            loss.backward()
            step.log(maker=loss)
        first.step()
        judge.requires_grad_(True)


@program(steps=6)
def gan_without_freezing(run: surefoot.Run) -> None:
    """The generator's round leaves gradients in the judge too; zero_grad throws them away before the next round, as scripts do."""
    maker, judge = nn.Sequential(nn.Linear(4, 8), nn.Tanh()), mlp()
    first = torch.optim.Adam(maker.parameters(), lr=0.01)
    second = torch.optim.Adam(judge.parameters(), lr=0.01)
    run.track(maker=maker, judge=judge, first=first, second=second)
    for step in run.steps(run.config["steps"]):
        second.zero_grad()
        for x, y in step.batches(POINTS):
            loss = F.cross_entropy(judge(x), y) + judge(maker(torch.randn(len(x), 4)).detach()).pow(2).mean()
            loss.backward()
            step.log(judge=loss)
        second.step()
        first.zero_grad()
        for x, _ in step.batches(POINTS):
            loss = judge(maker(torch.randn(len(x), 4))).pow(2).mean()
            loss.backward()
            step.log(maker=loss)
        first.step()


@program(steps=6)
def two_optimizers_by_turns(run: surefoot.Run) -> None:
    """Even steps train one part, odd steps the other, with the gradients of both."""
    model = mlp()
    one = torch.optim.SGD(model[0].parameters(), lr=0.1, momentum=0.9)
    two = torch.optim.AdamW(model[2].parameters(), lr=0.02)
    run.track(model=model, one=one, two=two)
    for step in run.steps(run.config["steps"]):
        for x, y in step.batches(POINTS):
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            step.log(loss=loss)
        (two if step.number % 2 else one).step()


@program(steps=6)
def clipping_and_norms(run: surefoot.Run) -> None:
    model = mlp(16)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.9)
    run.track(model=model, optimizer=optimizer)
    for step in run.steps(run.config["steps"]):
        for x, y in step.batches(POINTS):
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            step.log(loss=loss)
        norm = nn.utils.clip_grad_norm_(model.parameters(), 0.3)
        optimizer.param_groups[0]["lr"] = 0.5 / (1 + float(norm))
        optimizer.step()
        optimizer.zero_grad()


@program(steps=7)
def evaluation_amid_training(run: surefoot.Run) -> None:
    """Evaluation before and after the step, over a data set that is no multiple of anything, deciding the learning rate."""
    model = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.Dropout(0.3), nn.Linear(8, 3))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    held = TensorDataset(waves(37, 8), torch.arange(37) % 3)
    run.track(model=model, optimizer=optimizer)
    for step in run.steps(run.config["steps"]):
        if step.number % 3 == 0:
            for x, y in step.evaluate(held):
                step.log(before=F.cross_entropy(model(x), y))
        for x, y in step.batches(POINTS):
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            step.log(loss=loss)
        if step.every(2):
            for x, y in step.evaluate(held):
                step.log(right=(model(x).argmax(1) == y).float().mean())
            optimizer.param_groups[0]["lr"] *= 0.5 + step.merged["right"]
        optimizer.step()


@program(steps=6)
def weighted_merges(run: surefoot.Run) -> None:
    """Means over tokens that are no padding: sub-tasks have other weights, some none."""
    model = mlp()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.02)
    run.track(model=model, optimizer=optimizer)
    for step in run.steps(run.config["steps"]):
        for x, y in step.batches(POINTS):
            counted = (y != 0) & (x[:, 0] > -0.5)
            loss = F.cross_entropy(model(x), y, reduction="none")[counted].sum() / counted.sum().clamp(min=1)
            loss.backward()
            step.weigh(float(counted.sum()))
            step.log(loss=loss, counted=counted.float().sum())
        optimizer.step()


@program(steps=6)
def randomness_everywhere(run: surefoot.Run) -> None:
    """Draws from torch, numpy and random, in the inner loop, before it, and after it."""
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    run.track(model=model, optimizer=optimizer)
    for step in run.steps(run.config["steps"]):
        shift = random.random() + np.random.rand() + torch.rand(())
        for x, y in step.batches(POINTS):
            scale = random.random() + np.random.rand() + torch.rand(())
            loss = F.cross_entropy(model(x * scale + shift), y)
            loss.backward()
            step.log(loss=loss)
        optimizer.param_groups[0]["lr"] = 0.1 * (random.random() + np.random.rand() + float(torch.rand(())))
        optimizer.step()


@program(steps=6)
def mixup_and_augmentation(run: surefoot.Run) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(144, 3))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    run.track(model=model, optimizer=optimizer)
    for step in run.steps(run.config["steps"]):
        for x, y in step.batches(IMAGES):
            share = float(torch.distributions.Beta(0.4, 0.4).sample())
            order = torch.randperm(len(x))
            mixed = share * x + (1 - share) * x[order]
            out = model(mixed.flip(3) if random.random() < 0.5 else mixed)
            loss = share * F.cross_entropy(out, y) + (1 - share) * F.cross_entropy(out, y[order])
            loss.backward()
            step.log(loss=loss)
        optimizer.step()


@program(steps=6)
def autocast_inside(run: surefoot.Run) -> None:
    model = mlp(16)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.02)
    run.track(model=model, optimizer=optimizer)
    for step in run.steps(run.config["steps"]):
        for x, y in step.batches(POINTS):
            with torch.autocast("cpu", dtype=torch.bfloat16):
                loss = F.cross_entropy(model(x), y)
            loss.backward()
            step.log(loss=loss)
        optimizer.step()


@program(steps=6)
def autocast_around_the_loop(run: surefoot.Run) -> None:
    """autocast is entered once, around everything: its cache keeps casts of old weights."""
    model = mlp(16)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3)
    run.track(model=model, optimizer=optimizer)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        for step in run.steps(run.config["steps"]):
            for x, y in step.batches(POINTS):
                loss = F.cross_entropy(model(x), y)
                loss.backward()
                step.log(loss=loss)
            optimizer.step()


@program(steps=6)
def autocast_around_the_round(run: surefoot.Run) -> None:
    """autocast is entered once a step, around the inner loop."""
    model = mlp(16)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3)
    run.track(model=model, optimizer=optimizer)
    for step in run.steps(run.config["steps"]):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            for x, y in step.batches(POINTS):
                loss = F.cross_entropy(model(x), y)
                loss.backward()
                step.log(loss=loss)
        optimizer.step()
        if step.every(2):
            with torch.autocast("cpu", dtype=torch.bfloat16):
                for x, y in step.evaluate(POINTS):
                    step.log(right=(model(x).argmax(1) == y).float().mean())


@program(steps=6)
def autocast_by_a_function(run: surefoot.Run) -> None:
    """The whole train function is decorated with autocast, as examples do with forward."""

    @torch.autocast("cpu", dtype=torch.bfloat16)
    def go():
        model = mlp(16)
        fit(run, model, torch.optim.SGD(model.parameters(), lr=0.3))

    go()


@program(steps=6)
def two_data_sets_two_steps(run: surefoot.Run) -> None:
    """Two rounds, each with a step of its own."""
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    run.track(model=model, optimizer=optimizer)
    for step in run.steps(run.config["steps"]):
        for data in (POINTS, OTHERS):
            for x, y in step.batches(data):
                loss = F.cross_entropy(model(x), y)
                loss.backward()
            optimizer.step()


@program(steps=6)
def rounds_only_in_some_steps(run: surefoot.Run) -> None:
    """A second round every third step, and none of its losses else."""
    model = mlp()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.02)
    run.track(model=model, optimizer=optimizer)
    for step in run.steps(run.config["steps"]):
        for x, y in step.batches(POINTS):
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            step.log(loss=loss)
        optimizer.step()
        if step.every(3):
            for x, y in step.batches(OTHERS):
                loss = 0.1 * F.cross_entropy(model(x), y)
                loss.backward()
                step.log(other=loss)
            optimizer.step()


@program(steps=6)
def several_backwards(run: surefoot.Run) -> None:
    """Two losses, two backward calls in a sub-task, and micro-batches of one."""
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    run.track(model=model, optimizer=optimizer)
    for step in run.steps(run.config["steps"]):
        for x, y in step.batches(POINTS):
            for part, labels in zip(x.split(2), y.split(2), strict=True):
                (F.cross_entropy(model(part), labels) / 2).backward()
            penalty = 0.01 * sum(p.pow(2).sum() for p in model.parameters())
            penalty.backward()
            step.log(penalty=penalty)
        optimizer.step()


@program(steps=6)
def gradient_penalty(run: surefoot.Run) -> None:
    """Gradients of gradients: create_graph, and autograd.grad."""
    model = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 3))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    run.track(model=model, optimizer=optimizer)
    for step in run.steps(run.config["steps"]):
        for x, y in step.batches(POINTS):
            x = x.clone().requires_grad_()
            loss = F.cross_entropy(model(x), y)
            (slope,) = torch.autograd.grad(loss, x, create_graph=True)
            (loss + slope.pow(2).sum()).backward()
            step.log(loss=loss)
        optimizer.step()


@program(steps=6)
def gradients_that_are_views(run: surefoot.Run) -> None:
    """Gradients that autograd leaves as views, expanded, and at odd addresses."""

    class Split(nn.Module):
        def __init__(self):
            super().__init__()
            self.weights = nn.ParameterList(nn.Parameter(waves(8, 3) * 0.1) for _ in range(3))
            self.bias = nn.Parameter(torch.zeros(3))
            self.odd = nn.Parameter(torch.zeros(7))

        def forward(self, x):
            w = torch.cat([*self.weights])
            out = x.repeat(1, 3) @ w + self.bias.expand(len(x), 3)
            flat = torch.cat([self.odd, self.bias])
            return out + flat[4:7] + flat.sum()

    model = Split()
    fit(run, model, torch.optim.AdamW(model.parameters(), lr=0.01, fused=True))


@program(steps=6)
def models_in_a_trainer_class(run: surefoot.Run) -> None:
    """As people write it: a class that holds everything, tracked from its attributes."""

    class Trainer:
        def __init__(self):
            self.model = mlp()
            self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1, momentum=0.9)
            self.schedule = torch.optim.lr_scheduler.StepLR(self.optimizer, 2, 0.5)
            run.track(model=self.model, optimizer=self.optimizer, schedule=self.schedule)

        def loss(self, batch):
            return F.cross_entropy(self.model(batch[0]), batch[1])

        def fit(self):
            for step in run.steps(run.config["steps"]):
                for batch in step.batches(Points()):
                    loss = self.loss(batch)
                    loss.backward()
                    step.log(loss=loss)
                self.optimizer.step()
                self.schedule.step()

    Trainer().fit()


@program(steps=6)
def reads_the_state_dict(run: surefoot.Run) -> None:
    """Loads a saved state in the middle of training: the best so far, kept in a tracked module."""
    import copy

    model = mlp()
    best = copy.deepcopy(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    run.track(model=model, best=best, optimizer=optimizer)
    for step in run.steps(run.config["steps"]):
        for x, y in step.batches(POINTS):
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            step.log(loss=loss)
        optimizer.step()
        if step.number % 3 == 0:
            best.load_state_dict(model.state_dict())
        elif step.merged["loss"] > 1.0:
            model.load_state_dict(best.state_dict())


@program(steps=6)
def momentum_encoder(run: surefoot.Run) -> None:
    """MoCo's shape: a second model that follows the first, and a queue in a buffer with a pointer, moved after the step."""

    class Queue(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("keys", waves(12, 3))
            self.register_buffer("at", torch.zeros((), dtype=torch.long))

    student, teacher, queue = mlp(), mlp(), Queue()
    teacher.load_state_dict(student.state_dict())
    teacher.requires_grad_(False)
    optimizer = torch.optim.SGD(student.parameters(), lr=0.1)
    run.track(student=student, teacher=teacher, queue=queue, optimizer=optimizer)
    for step in run.steps(run.config["steps"]):
        for x, _ in step.batches(POINTS):
            logits = student(x) @ queue.keys.clone().t()
            loss = F.cross_entropy(logits, (teacher(x) @ queue.keys.t()).argmax(1))
            loss.backward()
            step.log(loss=loss)
        optimizer.step()
        with torch.no_grad():
            for slow, fast in zip(teacher.parameters(), student.parameters(), strict=True):
                slow.lerp_(fast, 0.1)
            at = int(queue.at)
            queue.keys[at] = student[2].weight.mean(1) * step.merged["loss"]
            queue.at.copy_(torch.tensor((at + 1) % 12))


@program(steps=6)
def seeded_in_the_sub_task(run: surefoot.Run) -> None:
    """Every sub-task gets the same noise: what the user asks for, and the same everywhere."""
    model = nn.Sequential(nn.Linear(8, 8), nn.Dropout(0.5), nn.Linear(8, 3))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    run.track(model=model, optimizer=optimizer)
    for step in run.steps(run.config["steps"]):
        for x, y in step.batches(POINTS):
            torch.manual_seed(0)
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            step.log(loss=loss)
        optimizer.step()
