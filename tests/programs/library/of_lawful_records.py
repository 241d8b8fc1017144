"""What is in order, though it looks like something carried on or filled late."""

import types

import torch.nn.functional as F
from kinds import POINTS, program
from practice import begun, inner

import surefoot


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
