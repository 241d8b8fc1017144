"""Counts of each trainer's own that callbacks, and dicts of a trainer, keep beside what decides."""

import collections
import math

import torch
import torch.nn.functional as F
from kinds import POINTS, program
from practice import begun

import surefoot

LOCAL = "on this trainer alone"


class Callback:
    def batch_ended(self, trainer, loss):
        """Nothing."""

    def step_ended(self, trainer, step):
        """Nothing."""


class Warmup(Callback):
    def __init__(self):
        self.n = 0

    def batch_ended(self, trainer, loss):
        self.n += 1

    def step_ended(self, trainer, step):
        trainer.optimizer.param_groups[0]["lr"] = 0.1 * min(1, self.n / 20)


class Plateau(Callback):
    def __init__(self):
        self.total, self.best = 0.0, math.inf

    def batch_ended(self, trainer, loss):
        self.total += loss.item()

    def step_ended(self, trainer, step):
        if self.total > self.best:
            trainer.optimizer.param_groups[0]["lr"] *= 0.5
        self.best, self.total = min(self.best, self.total), 0.0


class Scale(Warmup):
    def step_ended(self, trainer, step):
        trainer.scale = 1 / (1 + self.n / 50)


class Shown(Plateau):
    """Only prints, and forgets what it has counted."""

    def step_ended(self, trainer, step):
        print(f"{self.total:.3f}")
        self.total = step.merged["loss"]
        trainer.optimizer.param_groups[0]["lr"] = 0.1 / (1 + self.total)
        self.total = 0.0


class Trainer:
    def __init__(self, run, *callbacks):
        self.run, self.callbacks, self.scale = run, list(callbacks), 1.0
        self.model, self.optimizer = begun(run)

    def fire(self, name, *args):
        for callback in self.callbacks:
            getattr(callback, name)(self, *args)

    def fit(self):
        for step in self.run.steps(self.run.config["steps"]):
            for x, y in step.batches(POINTS):
                loss = F.cross_entropy(self.model(x), y) * self.scale
                loss.backward()
                step.log(loss=loss)
                self.fire("batch_ended", loss)
            self.optimizer.step()
            self.fire("step_ended", step)


@program(refused=LOCAL)
def warmup_by_a_callback(run: surefoot.Run) -> None:
    Trainer(run, Callback(), Warmup()).fit()


@program(refused=LOCAL, in_suite=False)
def plateau_by_a_callback(run: surefoot.Run) -> None:
    Trainer(run, Plateau()).fit()


@program(refused=LOCAL)
def loss_scaled_by_a_callback(run: surefoot.Run) -> None:
    Trainer(run, Scale()).fit()


@program(steps=6)
def callbacks_that_forget(run: surefoot.Run) -> None:
    Trainer(run, Shown(), Callback()).fit()


@program(refused=LOCAL)
def rate_by_an_event_of_batches(run: surefoot.Run) -> None:
    model, optimizer = begun(run)
    handlers, state = collections.defaultdict(list), {"iteration": 0}

    def on(event):
        return lambda function: handlers[event].append(function) or function

    def emit(event):
        for handler in handlers[event]:
            handler()

    @on("batch")
    def count():
        state["iteration"] += 1

    @on("step")
    def rate():
        optimizer.param_groups[0]["lr"] = 0.1 / (1 + state["iteration"])

    for step in run.steps(run.config["steps"]):
        for x, y in step.batches(POINTS):
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            step.log(loss=loss)
            emit("batch")
        optimizer.step()
        emit("step")


# ---- key by key


class Counting:
    """Keeps its counts, which only a log gets, beside what the loop decides by."""

    def __init__(self, model):
        self.model, self.state = model, {"batches": 0, "best": 9.0, "bad": 0}

    def loss(self, x, y):
        self.state["batches"] += 1
        return F.cross_entropy(self.model(x), y)


@program(steps=7)
def merged_values_beside_counts_in_one_dict(run: surefoot.Run) -> None:
    model, optimizer = begun(run)
    trainer = Counting(model)
    for step in run.steps(run.config["steps"]):
        for x, y in step.batches(POINTS):
            loss = trainer.loss(x, y)
            loss.backward()
            step.log(loss=loss)
        optimizer.step()
        if step.merged["loss"] < trainer.state["best"]:
            trainer.state["best"], trainer.state["bad"] = step.merged["loss"], 0
        else:
            trainer.state["bad"] += 1
        if trainer.state["bad"] > 5:
            break
        optimizer.param_groups[0]["lr"] = 0.1 / (1 + trainer.state["bad"])


@program(refused=LOCAL)
def rate_by_a_count_in_a_dict(run: surefoot.Run) -> None:
    model, optimizer = begun(run)
    trainer = Counting(model)
    for step in run.steps(run.config["steps"]):
        for x, y in step.batches(POINTS):
            loss = trainer.loss(x, y)
            loss.backward()
            step.log(loss=loss)
        optimizer.step()
        optimizer.param_groups[0]["lr"] = 0.1 / (1 + trainer.state["batches"])


@program(refused=LOCAL)
def schedule_by_sums_in_a_dict(run: surefoot.Run) -> None:
    model, optimizer = begun(run)
    schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0)
    for step in run.steps(run.config["steps"]):
        sums = {"loss": 0.0, "n": 0}
        for x, y in step.batches(POINTS):
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            step.log(loss=loss)
            sums["loss"] += loss.item()
            sums["n"] += 1
        optimizer.step()
        schedule.step(sum(sums.values()))
