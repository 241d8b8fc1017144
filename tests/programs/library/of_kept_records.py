"""What both loops write, what is kept of steps and of optimizers, and decisions by local values that are made in functions and methods."""

import contextlib
import copy
import math

import torch
import torch.nn.functional as F
from kinds import POINTS, mlp, program
from practice import begun, inner, sgd

import surefoot


@program(steps=7)
def integer_keys_shared_by_both_loops(run: surefoot.Run) -> None:
    """The inner loop writes one key of a dict, for a progress bar, and the loop another one, later."""
    model, optimizer = begun(run)
    weights = {0: 1.0, (1, "w"): 1.0}
    for step in run.steps(run.config["steps"]):
        if step.number == 4:
            weights[1, "w"] = 3.0
        for x, y in step.batches(POINTS):
            loss = F.cross_entropy(model(x), y) * weights[1, "w"]
            loss.backward()
            weights[0] = loss.item()
            step.log(loss=loss)
        optimizer.step()


@program(steps=7)
def steps_that_are_kept(run: surefoot.Run) -> None:
    """The best step, all steps, and their merged values as they are."""
    model, optimizer = begun(run)
    best, history, values = None, [], []
    for step in run.steps(run.config["steps"]):
        if best is not None and step.number - best.number > 1:
            optimizer.param_groups[0]["lr"] *= 0.5
        inner(model, step)
        optimizer.step()
        if best is None or step.merged["loss"] < best.merged["loss"] - 0.05:
            best = step
        history.append(step)
        values.append(step.merged)
        if len(history) > 2:
            falls = history[-3].merged["loss"] > values[-2]["loss"]
            optimizer.param_groups[0]["lr"] *= 0.9 if falls else 0.7


@program(steps=6, refused=r"is_autocast_enabled.* was changed from False to True in step 2", refused_by=2)
def autocast_switched_on_later(run: surefoot.Run) -> None:
    model, optimizer = begun(run)
    with contextlib.ExitStack() as stack:
        for step in run.steps(run.config["steps"]):
            if step.number == 2:
                stack.enter_context(torch.autocast("cpu", dtype=torch.bfloat16))
            inner(model, step)
            optimizer.step()


@program(steps=6)
def autocast_between_asking_for_steps_and_the_first(run: surefoot.Run) -> None:
    model, optimizer = begun(run)
    steps = run.steps(run.config["steps"])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        for step in steps:
            inner(model, step)
            optimizer.step()


@program(steps=8)
def rollback_on_a_spike(run: surefoot.Run) -> None:
    """After the first time, the snapshot and the optimizer share their tensors, as torch's load_state_dict copies none."""
    model = mlp()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.3)
    run.track(model=model, optimizer=optimizer)
    good, best = None, math.inf
    for step in run.steps(run.config["steps"]):
        inner(model, step)
        optimizer.step()
        if step.merged["loss"] < best:
            best = step.merged["loss"]
            good = copy.deepcopy((model.state_dict(), optimizer.state_dict()))
        elif step.merged["loss"] > 1.05 * best:
            model.load_state_dict(good[0])
            optimizer.load_state_dict(good[1])
            optimizer.param_groups[0]["lr"] *= 0.5


LOCAL = "on this trainer alone"


class Trainer:
    def __init__(self, run):
        self.run, self.model = run, mlp()
        self.optimizer = sgd(self.model)
        self.seen, self.total, self.best = 0, 0.0, 99.0
        run.track(model=self.model, optimizer=self.optimizer)

    def one(self, step):
        for x, y in step.batches(POINTS):
            loss = F.cross_entropy(self.model(x), y)
            loss.backward()
            step.log(loss=loss)
            self.seen += len(x)
            self.total += loss.item()

    def adjust(self):
        self.optimizer.param_groups[0]["lr"] = 0.1 / (1 + self.seen / 100)

    def rate(self):
        return 0.1 / (1 + self.seen / 100)

    def forget(self):
        self.seen, self.total = 0, 0.0


@program(steps=6, refused=LOCAL)
def rate_by_samples_seen_in_a_method(run: surefoot.Run) -> None:
    trainer = Trainer(run)
    for step in run.steps(run.config["steps"]):
        trainer.one(step)
        trainer.optimizer.param_groups[0]["lr"] = 0.1 / (1 + trainer.seen / 100)
        trainer.optimizer.step()


@program(steps=6, refused=LOCAL)
def rate_by_samples_seen_in_two_methods(run: surefoot.Run) -> None:
    trainer = Trainer(run)
    for step in run.steps(run.config["steps"]):
        trainer.one(step)
        trainer.adjust()
        trainer.optimizer.step()


@program(steps=6, refused=LOCAL)
def rate_that_a_method_returns(run: surefoot.Run) -> None:
    trainer = Trainer(run)
    for step in run.steps(run.config["steps"]):
        trainer.one(step)
        trainer.optimizer.param_groups[0]["lr"] = trainer.rate()
        trainer.optimizer.step()


@program(steps=6)
def local_sums_that_a_method_forgets(run: surefoot.Run) -> None:
    trainer = Trainer(run)
    for step in run.steps(run.config["steps"]):
        trainer.one(step)
        trainer.forget()
        trainer.seen += run.batch_size
        trainer.adjust()
        trainer.optimizer.step()


class Plateau(Trainer):
    def fit(self):
        for step in self.run.steps(self.run.config["steps"]):
            self.total = 0.0
            self.one(step)
            self.optimizer.step()
            if self.total > self.best:
                for group in self.optimizer.param_groups:
                    group["lr"] *= 0.5
            self.best = min(self.best, self.total)


@program(steps=6, refused=LOCAL)
def plateau_by_totals_of_a_method(run: surefoot.Run) -> None:
    Plateau(run).fit()


def one_pass(model, step, stats):
    for x, y in step.batches(POINTS):
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        step.log(loss=loss)
        stats["seen"] += len(x)


@program(steps=6, refused=LOCAL)
def rate_by_samples_seen_in_a_dict_of_a_function(run: surefoot.Run) -> None:
    model, optimizer = begun(run)
    stats = {"seen": 0}
    for step in run.steps(run.config["steps"]):
        one_pass(model, step, stats)
        optimizer.param_groups[0]["lr"] = 0.1 / (1 + stats["seen"] / 100)
        optimizer.step()


def set_rate(optimizer, seen):
    for group in optimizer.param_groups:
        group["lr"] = 0.1 / (1 + seen / 100)


@program(steps=6, refused=LOCAL)
def rate_set_by_a_function(run: surefoot.Run) -> None:
    model, optimizer = begun(run)
    seen = 0
    for step in run.steps(run.config["steps"]):
        for x, y in step.batches(POINTS):
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            step.log(loss=loss)
            seen += len(x)
        set_rate(optimizer, seen)
        optimizer.step()


class Validator:
    def __init__(self, model):
        self.model, self.right = model, 0

    def run(self, step):
        self.right = 0
        for x, y in step.evaluate(POINTS):
            self.right += int((self.model(x).argmax(1) == y).sum())
        return self.right / 100


@program(steps=6, refused=LOCAL)
def plateau_by_an_own_validator(run: surefoot.Run) -> None:
    model = mlp()
    optimizer = sgd(model)
    schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, mode="max", patience=0)
    run.track(model=model, optimizer=optimizer, schedule=schedule)
    validator = Validator(model)
    for step in run.steps(run.config["steps"]):
        inner(model, step)
        optimizer.step()
        schedule.step(validator.run(step))


class Mean:
    def __init__(self):
        self.reset()

    def reset(self):
        self.total, self.n = 0.0, 0

    def update(self, value):
        self.total += value
        self.n += 1

    def compute(self):
        return self.total / max(1, self.n)


@program(steps=6)
def meter_of_both_loops_that_is_reset(run: surefoot.Run) -> None:
    """In the inner loop for the progress bar, then reset and given the merged value, by which the rate is set."""
    model, optimizer = begun(run)
    meter = Mean()
    for step in run.steps(run.config["steps"]):
        for x, y in step.batches(POINTS):
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            meter.update(loss.item())
            step.log(loss=loss)
        optimizer.step()
        meter.reset()
        meter.update(step.merged["loss"])
        optimizer.param_groups[0]["lr"] = 0.05 * meter.compute()
