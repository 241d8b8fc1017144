"""Decisions by what an inner loop has summed up or counted: refused at their line. And such sums that decide nothing: in order."""

import io
import math
from collections import deque

import torch
import torch.nn.functional as F
from kinds import POINTS, mlp, program
from practice import sgd
from torch.optim import lr_scheduler

import surefoot

LOCAL = r"of_local_decisions\.py:\d+.*trainer alone"


@program(refused=LOCAL)
def plateau_by_a_running_loss(run: surefoot.Run) -> None:
    model = mlp()
    optimizer = sgd(model)
    schedule = lr_scheduler.ReduceLROnPlateau(optimizer, patience=0)
    run.track(model=model, optimizer=optimizer, schedule=schedule)
    for step in run.steps(run.config["steps"]):
        running, count = 0.0, 0
        for x, y in step.batches(POINTS):
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            running += loss.item()
            count += 1
        optimizer.step()
        mean = running / count
        schedule.step(mean)


@program(refused=LOCAL)
def plateau_by_the_last_loss(run: surefoot.Run) -> None:
    model = mlp()
    optimizer = sgd(model)
    schedule = lr_scheduler.ReduceLROnPlateau(optimizer, patience=0)
    run.track(model=model, optimizer=optimizer, schedule=schedule)
    for step in run.steps(run.config["steps"]):
        for x, y in step.batches(POINTS):
            loss = F.cross_entropy(model(x), y)
            loss.backward()
        optimizer.step()
        schedule.step(loss)


@program(refused=LOCAL)
def rate_by_samples_seen(run: surefoot.Run) -> None:
    """Warm-up by the samples that this trainer has seen."""
    model = mlp()
    optimizer = sgd(model)
    run.track(model=model, optimizer=optimizer)
    seen = 0
    for step in run.steps(run.config["steps"]):
        for group in optimizer.param_groups:
            group["lr"] = 0.1 * min(1.0, (seen + 1) / 64)
        for x, y in step.batches(POINTS):
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            seen += len(x)
        optimizer.step()


class Fitter:
    """An epoch's loss comes back from a method."""

    def __init__(self, model, optimizer, schedule):
        self.model, self.optimizer, self.schedule = model, optimizer, schedule

    def train_one(self, step):
        total = 0.0
        for x, y in step.batches(POINTS):
            loss = F.cross_entropy(self.model(x), y)
            loss.backward()
            total += loss.item()
        self.optimizer.step()
        return total / 4

    def fit(self, run):
        for step in run.steps(run.config["steps"]):
            loss = self.train_one(step)
            self.schedule.step(loss)


@program(refused=LOCAL)
def loss_returned_by_a_method(run: surefoot.Run) -> None:
    model = mlp()
    optimizer = sgd(model)
    schedule = lr_scheduler.ReduceLROnPlateau(optimizer, patience=0)
    run.track(model=model, optimizer=optimizer, schedule=schedule)
    Fitter(model, optimizer, schedule).fit(run)


@program(refused=LOCAL)
def early_stop_by_a_local_accuracy(run: surefoot.Run) -> None:
    model = mlp()
    optimizer = sgd(model)
    run.track(model=model, optimizer=optimizer)
    best, bad = 0.0, 0
    for step in run.steps(run.config["steps"]):
        for x, y in step.batches(POINTS):
            F.cross_entropy(model(x), y).backward()
        optimizer.step()
        right = total = 0
        for x, y in step.evaluate(POINTS):
            right += (model(x).argmax(1) == y).sum().item()
            total += len(y)
        accuracy = right / total
        if accuracy > best:
            best, bad = accuracy, 0
        else:
            bad += 1
        if bad > 50:
            break


@program(refused=LOCAL)
def step_skipped_by_a_local_loss(run: surefoot.Run) -> None:
    model = mlp()
    optimizer = sgd(model)
    run.track(model=model, optimizer=optimizer)
    for step in run.steps(run.config["steps"]):
        for x, y in step.batches(POINTS):
            loss = F.cross_entropy(model(x), y)
            loss.backward()
        if torch.isfinite(loss):
            optimizer.step()


@program(steps=6)
def local_sums_that_decide_nothing(run: surefoot.Run) -> None:
    """Sums, windows and counters for print; names used anew for merged values; the batch's length."""
    model = mlp()
    optimizer = sgd(model)
    schedule = lr_scheduler.ReduceLROnPlateau(optimizer, patience=0)
    run.track(model=model, optimizer=optimizer, schedule=schedule)
    window, total, best, told = deque(maxlen=5), 0.0, math.inf, []
    for step in run.steps(run.config["steps"]):
        n = 0
        for i, (x, y) in enumerate(step.batches(POINTS)):
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            window.append(loss.item())
            total += loss.item()
            n += 1
            step.log(loss=loss)
            if i == 0 and total > 1e9:
                continue
        told.append(f"{total / n:.3f} {sum(window) / len(window):.3f}")
        if n > 100:
            print(told[-1])
        loss = step.merged["loss"]
        if loss < best:
            best = loss
        if math.isfinite(loss):
            optimizer.step()
        x = step.number
        optimizer.param_groups[0]["lr"] = 0.1 / (1 + x)
        schedule.step(loss)
        if best < -1:
            break


def rate_at(number: int) -> float:
    return 0.1 / (1 + number)


@program(steps=4)
def rate_computed_in_the_inner_loop(run: surefoot.Run) -> None:
    """It is the same in all sub-tasks of a step, so it may be used after them."""
    model = mlp()
    optimizer = sgd(model)
    run.track(model=model, optimizer=optimizer)
    for step in run.steps(run.config["steps"]):
        for x, y in step.batches(POINTS):
            rate = rate_at(step.number)
            half = rate / 2
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            step.log(loss=loss)
        for group in optimizer.param_groups:
            group["lr"] = half
        optimizer.step()


@program(refused=LOCAL)
def rate_drawn_in_the_inner_loop(run: surefoot.Run) -> None:
    model = mlp()
    optimizer = sgd(model)
    run.track(model=model, optimizer=optimizer)
    for step in run.steps(run.config["steps"]):
        for x, y in step.batches(POINTS):
            rate = float(torch.rand(1))
            F.cross_entropy(model(x), y).backward()
        optimizer.param_groups[0]["lr"] = rate
        optimizer.step()


@program(refused="the loss of loss.backward.. is decided by weights")
def classes_weighed_by_own_confusions(run: surefoot.Run) -> None:
    """What an evaluation counts on this trainer weighs the classes from the next step on."""
    model = mlp()
    optimizer = sgd(model)
    run.track(model=model, optimizer=optimizer)
    weights = torch.ones(3)
    for step in run.steps(run.config["steps"]):
        for x, y in step.batches(POINTS):
            loss = F.cross_entropy(model(x), y, weight=weights)
            loss.backward()
        optimizer.step()
        counts = torch.zeros(3)
        for x, _ in step.evaluate(POINTS):
            counts += torch.bincount(model(x).argmax(1), minlength=3)
        weights = 1 / (counts + 1)
        weights = weights / weights.sum()


@program(refused="the loss of .* is decided by threshold")
def threshold_of_own_confidences(run: surefoot.Run) -> None:
    model = mlp()
    optimizer = sgd(model)
    run.track(model=model, optimizer=optimizer)
    threshold = 0.0
    for step in run.steps(run.config["steps"]):
        confidences = []
        for x, y in step.batches(POINTS):
            out = model(x)
            confidence = out.detach().softmax(1).amax(1)
            kept = (confidence > threshold).float()
            loss = (F.cross_entropy(out, y, reduction="none") * kept).mean()
            loss.backward()
            confidences.append(confidence)
        optimizer.step()
        threshold = float(torch.cat(confidences).mean()) * 0.9


@program(steps=4)
def classes_weighed_by_gathered_confusions(run: surefoot.Run) -> None:
    """The same by what all have gathered; the trainer's own counts are for print."""
    model = mlp()
    optimizer = sgd(model)
    run.track(model=model, optimizer=optimizer)
    weights, shown = torch.ones(3), 0.0
    for step in run.steps(run.config["steps"]):
        total = 0.0
        for x, y in step.batches(POINTS):
            loss = F.cross_entropy(model(x), y, weight=weights)
            loss.backward()
            total += loss.item()
            step.log(loss=loss)
            print(shown, file=io.StringIO())
        shown = total / 4
        optimizer.step()
        for x, _ in step.evaluate(POINTS):
            step.gather(chosen=model(x).argmax(1))
        weights = 1 / (torch.bincount(step.gathered["chosen"], minlength=3) + 1)
