"""What only an address, a count of seeds, a hook, a property or a wrapped method leads to."""

import functools

import numpy as np
import torch
from kinds import mlp, program
from practice import begun, inner, sgd

import surefoot

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
