"""What begins late, what inner loops leave behind, and what only an address, a hook or a count of seeds leads to."""

import collections
import functools
import itertools
import math
import types

import numpy as np
import torch
import torch.nn.functional as F
from kinds import POINTS, mlp, program
from practice import sgd

import surefoot

LOCAL = "on this trainer alone"
COMPARED = "was computed on two trainers"
# or by the trainers' cross-checks, where they have left other values in the first step
LEFT = f"gave other bits without what inner loops of earlier steps have left|{COMPARED}"


def inner(model, step, data=POINTS, scale=1.0, **how):
    for x, y in step.batches(data, **how):
        loss = F.cross_entropy(model(x), y) * scale
        loss.backward()
        step.log(loss=loss)


def begun(run):
    model = mlp()
    optimizer = sgd(model)
    run.track(model=model, optimizer=optimizer)
    return model, optimizer


# ---- what only an address leads to


@program(steps=7)
def velocities_by_id_made_when_needed(run: surefoot.Run) -> None:
    model = mlp()
    run.track(model=model)
    velocity = {}
    for step in run.steps(run.config["steps"]):
        inner(model, step)
        with torch.no_grad():
            for p in model.parameters():
                v = velocity.setdefault(id(p), torch.zeros_like(p)).mul_(0.9).add_(p.grad)
                p.sub_(0.1 * v)
                p.grad = None


@program(steps=6)
def velocities_by_id_made_before(run: surefoot.Run) -> None:
    model = mlp()
    run.track(model=model)
    velocity = {id(p): torch.zeros_like(p) for p in model.parameters()}
    for step in run.steps(run.config["steps"]):
        inner(model, step)
        with torch.no_grad():
            for p in model.parameters():
                p.sub_(0.1 * velocity[id(p)].mul_(0.9).add_(p.grad))
                p.grad = None


@program(steps=6, refused=r"has keys that are id\(\)s of tensors")
def tracked_by_id(run: surefoot.Run) -> None:
    model = mlp()
    optimizer = sgd(model)
    means = {}
    run.track(model=model, optimizer=optimizer, means=means)
    for step in run.steps(run.config["steps"]):
        inner(model, step)
        for p in model.parameters():
            means[id(p)] = 0.9 * means.get(id(p), 0.0) + p.grad
        optimizer.step()


# ---- random generators that are made of others


@program(steps=7)
def seeds_spawned_by_a_sequence(run: surefoot.Run) -> None:
    model, optimizer = begun(run)
    seeds = np.random.SeedSequence(run.seed)
    for step in run.steps(run.config["steps"]):
        inner(model, step, scale=float(np.random.default_rng(seeds.spawn(1)[0]).uniform(0.5, 1.5)))
        optimizer.step()


@program(steps=7)
def generators_spawned_by_a_generator(run: surefoot.Run) -> None:
    model, optimizer = begun(run)
    source = np.random.default_rng(3)
    for step in run.steps(run.config["steps"]):
        inner(model, step, scale=float(source.spawn(1)[0].uniform(0.5, 1.5)))
        optimizer.step()


# ---- hooks, and what is put in place of methods


@program(steps=6)
def count_in_a_hook_of_an_optimizer(run: surefoot.Run) -> None:
    model, optimizer = begun(run)

    def attach():
        n = 0

        def hook(optimizer, args, kwargs):
            nonlocal n
            n += 1
            optimizer.param_groups[0]["lr"] = 0.1 / (1 + n)

        optimizer.register_step_post_hook(hook)

    attach()
    for step in run.steps(run.config["steps"]):
        inner(model, step)
        optimizer.step()


@program(steps=6)
def step_of_an_optimizer_wrapped(run: surefoot.Run) -> None:
    model = mlp()
    optimizer = sgd(model)

    def warm(optimizer):
        k, step = 0, optimizer.step

        @functools.wraps(step)
        def stepped(*args, **kwargs):
            nonlocal k
            k += 1
            optimizer.param_groups[0]["lr"] = 0.02 * k
            return step(*args, **kwargs)

        optimizer.step = stepped

    warm(optimizer)
    run.track(model=model, optimizer=optimizer)
    for step in run.steps(run.config["steps"]):
        inner(model, step)
        optimizer.step()


def counted(function):
    n = 0

    @functools.wraps(function)
    def wrapper(*args):
        nonlocal n
        n += 1
        return function(*args) / n

    return wrapper


@program(steps=6)
def count_in_a_property(run: surefoot.Run) -> None:
    class Rates:
        @property
        @counted
        def rate(self):
            return 0.2

    model, optimizer = begun(run)
    rates = Rates()
    for step in run.steps(run.config["steps"]):
        inner(model, step)
        optimizer.param_groups[0]["lr"] = rates.rate
        optimizer.step()


# ---- callbacks that decide by what they count


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


# ---- what earlier inner loops have left


@program(refused=LEFT)
def divided_by_the_largest_so_far(run: surefoot.Run) -> None:
    model, optimizer = begun(run)

    class Largest:
        def __init__(self):
            self.value = 0.5

        def __call__(self, x):
            self.value = max(self.value, x.sum().abs().item())
            return x / self.value

    normed = Largest()
    for step in run.steps(run.config["steps"]):
        for x, y in step.batches(POINTS):
            loss = F.cross_entropy(model(normed(x)), y)
            loss.backward()
            step.log(loss=loss)
        optimizer.step()


@program(refused=LEFT)
def prototypes_summed_up_in_an_evaluation(run: surefoot.Run) -> None:
    model, optimizer = begun(run)

    class Prototypes:
        def __init__(self):
            self.sums, self.n = torch.zeros(3, 3), torch.ones(3)

        def see(self, x, y):
            self.sums.index_add_(0, y, model(x))
            self.n.index_add_(0, y, torch.ones(len(y)))

        def distance(self, z, y):
            return ((z - (self.sums / self.n[:, None])[y]) ** 2).mean()

    prototypes = Prototypes()
    for step in run.steps(run.config["steps"]):
        for x, y in step.batches(POINTS):
            z = model(x)
            loss = F.cross_entropy(z, y) + prototypes.distance(z, y)
            loss.backward()
            step.log(loss=loss)
        optimizer.step()
        for x, y in step.evaluate(POINTS):
            prototypes.see(x, y)
            step.log(mean=x.mean())


# what inner loops write in the first steps is each trainer's own: one that joins later has it not
@program(refused=LEFT, refused_by=2)
def flag_set_by_the_step_in_the_inner_loop(run: surefoot.Run) -> None:
    model, optimizer = begun(run)

    class Loss:
        scale = 1.0

    settings = Loss()
    for step in run.steps(run.config["steps"]):
        for x, y in step.batches(POINTS):
            if step.number == 1:
                settings.scale = 2.0
            loss = F.cross_entropy(model(x), y) * settings.scale
            loss.backward()
            step.log(loss=loss)
        optimizer.step()


# ---- what begins late


def _centred_late(how):
    def train(run: surefoot.Run) -> None:
        model, optimizer = begun(run)

        class Distance:
            def __init__(self):
                self.center, self.ready, self.held = None, False, {}

            def __call__(self, z):
                if how == "none" and self.center is None:
                    self.center = z.mean(0).detach()
                elif how == "flag" and not self.ready:
                    self.center, self.ready = z.mean(0).detach(), True
                elif how == "key" and "center" not in self.held:
                    self.held["center"] = z.mean(0).detach()
                center = self.held["center"] if how == "key" else self.center
                return ((z - center) ** 2).mean()

        distance = Distance()
        for step in run.steps(run.config["steps"]):
            for x, y in step.batches(POINTS):
                z = model(x)
                loss = F.cross_entropy(z, y)
                if step.number >= 4:
                    loss = loss + distance(z)
                loss.backward()
                step.log(loss=loss)
            optimizer.step()

    train.__name__ = train.__qualname__ = f"centred_late_by_{how}"
    # what one trainer alone keeps of its own first batch is the same to the end
    program(refused=COMPARED, refused_by=4, refused_alone=False, in_suite=how != "flag")(train)


for _how in ("none", "flag", "key"):
    _centred_late(_how)


@program(refused="computed twice", refused_by=4)
def second_loop_that_carries_a_mean(run: surefoot.Run) -> None:
    model, optimizer = begun(run)
    mean = torch.zeros(3)
    for step in run.steps(run.config["steps"]):
        if step.number < 4:
            inner(model, step)
        else:
            for x, y in step.batches(POINTS):
                z = model(x)
                mean = 0.9 * mean + 0.1 * z.detach().mean(0)
                loss = F.cross_entropy(z - mean, y)
                loss.backward()
                step.log(loss=loss)
        optimizer.step()


@program(steps=7)
def records_that_begin_late(run: surefoot.Run) -> None:
    model, optimizer = begun(run)
    losses, lowest = [], None
    for step in run.steps(run.config["steps"]):
        for x, y in step.batches(POINTS):
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            step.log(loss=loss)
            if step.number >= 4:
                losses.append(loss.item())
                lowest = min(losses) if lowest is None else min(lowest, losses[-1])
        optimizer.step()


@program(steps=7)
def rates_from_an_iterator_late(run: surefoot.Run) -> None:
    model, optimizer = begun(run)
    rates = itertools.cycle([0.1, 0.2, 0.05])
    for step in run.steps(run.config["steps"]):
        inner(model, step)
        if step.number >= 3:
            optimizer.param_groups[0]["lr"] = next(rates)
        optimizer.step()


def halves():
    rate = 0.1
    while True:
        yield rate
        rate *= 0.5


# a generator may only serve what is shown: that it has gone on is a warning, and what comes of it is seen by trainers that are compared
@program(in_suite=False, steps=7)
def rates_from_a_generator_late(run: surefoot.Run) -> None:
    model, optimizer = begun(run)
    rates = halves()
    for step in run.steps(run.config["steps"]):
        inner(model, step)
        if step.number >= 3:
            optimizer.param_groups[0]["lr"] = next(rates)
        optimizer.step()


@program(refused="is a generator or another iterator")
def rates_from_a_generator_that_the_loop_makes(run: surefoot.Run) -> None:
    model, optimizer = begun(run)
    rates = None
    for step in run.steps(run.config["steps"]):
        rates = halves() if rates is None else rates
        inner(model, step)
        optimizer.param_groups[0]["lr"] = next(rates)
        optimizer.step()


# ---- what is in order, though it looks like one of these


@program(steps=7)
def merged_values_beside_counts_in_one_dict(run: surefoot.Run) -> None:
    class Trainer:
        def __init__(self):
            self.state = {"batches": 0, "best": 9.0, "bad": 0}

        def loss(self, x, y):
            self.state["batches"] += 1
            return F.cross_entropy(model(x), y)

    model, optimizer = begun(run)
    trainer = Trainer()
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
    class Trainer:
        def __init__(self):
            self.state = {"batches": 0, "best": 9.0}

        def loss(self, x, y):
            self.state["batches"] += 1
            return F.cross_entropy(model(x), y)

    model, optimizer = begun(run)
    trainer = Trainer()
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


@program(steps=7)
def metrics_cleared_at_each_step(run: surefoot.Run) -> None:
    model, optimizer = begun(run)
    metrics = {}
    for step in run.steps(run.config["steps"]):
        for x, y in step.batches(POINTS):
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            step.log(loss=loss)
            metrics["loss"] = loss.item()
        optimizer.step()
        print(metrics)
        metrics.clear()


@program(steps=7)
def mean_that_is_shown_from_a_later_step_on(run: surefoot.Run) -> None:
    class Smooth:
        def __init__(self):
            self.n, self.value = 0, None

        def add(self, value):
            self.value = value if self.n == 0 else 0.9 * self.value + 0.1 * value
            self.n += 1

    model, optimizer = begun(run)
    smooth = Smooth()
    for step in run.steps(run.config["steps"]):
        for x, y in step.batches(POINTS):
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            step.log(loss=loss)
            if step.number >= 4:
                smooth.add(loss.item())
        optimizer.step()


@program(steps=7)
def scale_in_a_dict_that_the_inner_loop_counts_in(run: surefoot.Run) -> None:
    model, optimizer = begun(run)
    state, seen = {}, []
    for step in run.steps(run.config["steps"]):
        for x, y in step.batches(POINTS):
            state["batches"] = state.get("batches", 0) + 1
            loss = F.cross_entropy(model(x), y) * state.get("scale", 1.0)
            loss.backward()
            step.log(loss=loss)
        optimizer.step()
        if step.number == 1:
            for x, _ in step.evaluate(POINTS):
                seen.append(1)
                step.log(mean=x.mean())
            state["scale"] = 0.5


losses = [9.0]


def features(model, x):
    losses = []
    for layer in model:
        x = layer(x)
        losses.append(x)
    return x, losses


@program(steps=7)
def list_of_a_helper_named_as_a_global_one(run: surefoot.Run) -> None:
    model, optimizer = begun(run)
    del losses[1:]
    for step in run.steps(run.config["steps"]):
        for x, y in step.batches(POINTS):
            z, _ = features(model, x)
            loss = F.cross_entropy(z, y)
            loss.backward()
            step.log(loss=loss)
        optimizer.step()
        losses.append(step.merged["loss"])
        if losses[-1] < 0.1:
            break


@program(steps=7)
def totals_in_a_namespace_begun_anew_with_each_round(run: surefoot.Run) -> None:
    model, optimizer = begun(run)
    meter = types.SimpleNamespace()
    for step in run.steps(run.config["steps"]):
        for i, (x, y) in enumerate(step.batches(POINTS)):
            if i == 0:
                meter.total = 0.0
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            step.log(loss=loss)
            meter.total += loss.item()
        optimizer.step()


@program(steps=7)
def dicts_with_methods_of_their_own(run: surefoot.Run) -> None:
    class Registry(dict):
        def get(self, name):
            return self[name]

        def items(self):
            raise AssertionError

    model, optimizer = begun(run)
    registry = Registry(best=None)
    for step in run.steps(run.config["steps"]):
        inner(model, step)
        optimizer.step()
        if step.number > 2:
            registry["best"] = step.merged["loss"]


@program(steps=7)
def colors_of_a_plot_from_a_cycle_late(run: surefoot.Run) -> None:
    def names():
        while True:
            yield "red"
            yield "green"

    model, optimizer = begun(run)
    colors = names()
    for step in run.steps(run.config["steps"]):
        inner(model, step)
        optimizer.step()
        if step.number > 3:
            print(next(colors))


@program(steps=7)
def generator_that_closes_over_what_the_loop_changes(run: surefoot.Run) -> None:
    model, optimizer = begun(run)
    scale = 1.0

    def scales():
        while True:
            yield scale

    waiting = scales()
    for step in run.steps(run.config["steps"]):
        inner(model, step, scale=scale)
        optimizer.step()
        scale *= 0.9
    assert waiting is not None
