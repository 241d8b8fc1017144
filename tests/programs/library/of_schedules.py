"""Schedulers, averages and scalers: what is tracked beside model and optimizer."""

import math

import torch
import torch.nn.functional as F
from kinds import POINTS, fit, mlp, program
from torch.optim import lr_scheduler as lr
from torch.optim import swa_utils

import surefoot


def halve(n):
    return 0.5**n


class Warm:
    """A schedule as an object, which LambdaLR keeps by its __dict__."""

    def __init__(self, steps):
        self.steps, self.calls = steps, 0

    def __call__(self, n):
        self.calls += 1
        return min(1.0, (n + 1) / self.steps) + 0.001 * self.calls


SCHEDULES = {
    "LambdaLR": lambda o: lr.LambdaLR(o, lambda n: 0.5 * (1 + math.cos(math.pi * n / 20))),
    "LambdaLR_object": lambda o: lr.LambdaLR(o, Warm(4)),
    "MultiplicativeLR": lambda o: lr.MultiplicativeLR(o, lambda n: 0.95),
    "StepLR": lambda o: lr.StepLR(o, 2, 0.5),
    "MultiStepLR": lambda o: lr.MultiStepLR(o, [2, 4], 0.5),
    "ConstantLR": lambda o: lr.ConstantLR(o, 0.3, 4),
    "LinearLR": lambda o: lr.LinearLR(o, total_iters=4),
    "ExponentialLR": lambda o: lr.ExponentialLR(o, 0.9),
    "PolynomialLR": lambda o: lr.PolynomialLR(o, 5),
    "CosineAnnealingLR": lambda o: lr.CosineAnnealingLR(o, 5),
    "WarmRestarts": lambda o: lr.CosineAnnealingWarmRestarts(o, 3),
    "CyclicLR": lambda o: lr.CyclicLR(o, 0.01, 0.1, step_size_up=3),
    "CyclicLR_function": lambda o: lr.CyclicLR(o, 0.01, 0.1, step_size_up=3, scale_fn=halve, cycle_momentum=False),
    "OneCycleLR": lambda o: lr.OneCycleLR(o, 0.1, total_steps=50),
    "SequentialLR": lambda o: lr.SequentialLR(o, [lr.LinearLR(o, total_iters=3), lr.ExponentialLR(o, 0.8)], [3]),
    "ChainedScheduler": lambda o: lr.ChainedScheduler([lr.ConstantLR(o, 0.3, 3), lr.ExponentialLR(o, 0.9)], o),
    "SWALR": lambda o: swa_utils.SWALR(o, 0.02, anneal_epochs=4),
}


def _list(name, make, tensor):
    def train(run: surefoot.Run) -> None:
        model = mlp()
        rate = torch.tensor(0.1) if tensor else 0.1
        optimizer = torch.optim.SGD(model.parameters(), lr=rate, momentum=0.9)
        schedule = make(optimizer)
        fit(run, model, optimizer, after=lambda step: schedule.step(), schedule=schedule)

    full = f"schedule_{name}{'_tensor' if tensor else ''}"
    train.__name__ = train.__qualname__ = full
    globals()[full] = program(steps=8)(train)


for _name, _make in SCHEDULES.items():
    _list(_name, _make, False)
    if _name not in ("SWALR",):
        _list(_name, _make, True)


@program(steps=12)
def plateau(run: surefoot.Run) -> None:
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2)
    schedule = lr.ReduceLROnPlateau(optimizer, patience=1, factor=0.5, cooldown=1)
    fit(run, model, optimizer, after=lambda step: schedule.step(step.merged["loss"]), schedule=schedule)


@program(steps=12)
def plateau_and_tensor_learning_rate(run: surefoot.Run) -> None:
    model = mlp(16)
    optimizer = torch.optim.Adam(model.parameters(), lr=torch.tensor(0.05))
    schedule = lr.ReduceLROnPlateau(optimizer, patience=0, factor=0.5)
    fit(run, model, optimizer, after=lambda step: schedule.step(step.merged["loss"]), schedule=schedule)


@program(steps=8)
def two_groups_one_tensor_learning_rate(run: surefoot.Run) -> None:
    model = mlp()
    rate = torch.tensor(0.1)
    groups = [{"params": model[0].parameters()}, {"params": model[2].parameters()}]
    optimizer = torch.optim.SGD(groups, lr=rate)

    def after(step):
        rate.mul_(0.9)  # the tensor is the optimizer's own

    fit(run, model, optimizer, after=after)


@program(steps=8)
def schedule_made_before_tracking_the_optimizer_twice(run: surefoot.Run) -> None:
    """Two optimizers, a schedule each."""
    model = mlp()
    one = torch.optim.AdamW(model[0].parameters(), lr=0.01)
    two = torch.optim.SGD(model[2].parameters(), lr=0.1, momentum=0.5)
    first, second = lr.OneCycleLR(one, 0.1, total_steps=20), lr.CosineAnnealingLR(two, 8)

    def after(step):
        two.step()
        first.step()
        second.step()

    fit(run, model, one, after=after, two=two, first=first, second=second)


@program(steps=8)
def swa(run: surefoot.Run) -> None:
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    average, schedule = swa_utils.AveragedModel(model), swa_utils.SWALR(optimizer, 0.02, anneal_epochs=3)

    def after(step):
        if step.number >= 3:
            average.update_parameters(model)
            schedule.step()

    fit(run, model, optimizer, after=after, average=average, schedule=schedule)


@program(steps=8)
def ema_with_buffers(run: surefoot.Run) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.BatchNorm1d(8), torch.nn.Linear(8, 3))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.02)
    average = swa_utils.AveragedModel(model, multi_avg_fn=swa_utils.get_ema_multi_avg_fn(0.9), use_buffers=True)
    run.track(model=model, optimizer=optimizer, average=average)
    for step in run.steps(run.config["steps"]):
        for x, y in step.batches(POINTS):
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            step.log(loss=loss)
        optimizer.step()
        average.update_parameters(model)
        if step.every(3):
            for x, y in step.evaluate(POINTS):
                step.log(right=(average(x).argmax(1) == y).float().mean())


class Shadow:
    """An average as people write it: a dict of tensors, with state_dict and load_state_dict."""

    def __init__(self, model, decay=0.9):
        self.decay, self.updates = decay, 0
        self.shadow = {k: v.detach().clone() for k, v in model.named_parameters() if v.is_floating_point()}

    def update(self, model):
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        for k, v in model.named_parameters():
            self.shadow[k].mul_(decay).add_(v.detach(), alpha=1 - decay)

    def state_dict(self):
        return {"shadow": self.shadow, "updates": self.updates}

    def load_state_dict(self, state):
        self.updates = state["updates"]
        self.shadow = {k: v.clone() for k, v in state["shadow"].items()}


@program(steps=8)
def own_average(run: surefoot.Run) -> None:
    model = mlp()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.02)
    shadow = Shadow(model)

    def after(step):
        shadow.update(model)
        with torch.no_grad():  # so that the average decides what comes
            model[2].bias.lerp_(shadow.shadow["2.bias"], 0.1)

    fit(run, model, optimizer, after=after, shadow=shadow)


class Best:
    """Plain values: the best loss, a history, a set of names, a nested dict with numbers as keys."""

    def __init__(self):
        self.state = {"best": math.inf, "history": [], "seen": set(), "by_step": {}, "pair": (1, 2.5)}

    def state_dict(self):
        return self.state

    def load_state_dict(self, state):
        self.state = state


@program(steps=8)
def plain_values(run: surefoot.Run) -> None:
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    best = Best()

    def after(step):
        loss = step.merged["loss"]
        best.state["best"] = min(best.state["best"], loss)
        best.state["history"].append(loss)
        best.state["seen"].add(f"step {step.number % 3}")
        best.state["by_step"][step.number] = loss
        optimizer.param_groups[0]["lr"] = 0.1 / (1 + sum(best.state["history"][-3:])) + 0.01 * len(best.state["seen"])

    fit(run, model, optimizer, after=after, best=best)


@program(steps=8)
def value_that_is_a_tensor_here_and_a_number_there(run: surefoot.Run) -> None:
    """A tracked value that becomes a tensor only when it is first written."""
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    class Rate:
        value = 0.1

        def state_dict(self):
            return {"value": self.value}

        def load_state_dict(self, state):
            self.value = state["value"]

    rate = Rate()

    def after(step):
        rate.value = torch.tensor(0.1 / (step.number + 1)) if step.number % 2 else float(rate.value) * 0.9
        optimizer.param_groups[0]["lr"] = rate.value

    fit(run, model, optimizer, after=after, rate=rate)


@program(steps=6)
def grad_scaler(run: surefoot.Run) -> None:
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=64.0, growth_interval=2)
    run.track(model=model, optimizer=optimizer, scaler=scaler)
    for step in run.steps(run.config["steps"]):
        for x, y in step.batches(POINTS):
            with torch.autocast("cpu", dtype=torch.bfloat16):
                loss = F.cross_entropy(model(x), y)
            scaler.scale(loss).backward()
            step.log(loss=loss)
        scaler.unscale_(optimizer)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        scaler.step(optimizer)
        scaler.update()


@program(steps=6)
def grad_scaler_that_skips_steps(run: surefoot.Run) -> None:
    """The scale is so high that the first steps overflow."""
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=3.0e38, growth_interval=2, backoff_factor=1e-20)
    run.track(model=model, optimizer=optimizer, scaler=scaler)
    for step in run.steps(run.config["steps"]):
        for x, y in step.batches(POINTS):
            loss = 100 * F.cross_entropy(model(x), y)
            scaler.scale(loss).backward()
            step.log(loss=loss)
        scaler.step(optimizer)
        scaler.update()
