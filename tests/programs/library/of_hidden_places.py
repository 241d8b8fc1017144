"""More places where state hides: other modules, singletons, iterators and generators in objects, registries, scalers, wrappers."""

import collections
import functools
import heapq
import math
import random
from array import array
from decimal import Decimal

import numpy as np
import rates
import torch
import torch.nn.functional as F
from kinds import POINTS, Points, mlp, program
from practice import begun, inner, sgd
from torch import nn
from torch.optim import lr_scheduler
from torch.utils.data import DataLoader

import surefoot


@program(steps=6, in_suite=False)
def variables_of_another_module(run: surefoot.Run) -> None:
    rates.rate, rates.seen["steps"] = 0.1, 0
    model, optimizer = begun(run)
    for step in run.steps(run.config["steps"]):
        inner(model, step)
        rates.seen["steps"] += 1
        optimizer.param_groups[0]["lr"] = rates.next_rate() / rates.seen["steps"]
        optimizer.step()


@program(steps=6, in_suite=False)
def class_counter_of_another_module(run: surefoot.Run) -> None:
    rates.Registry.made = 0
    model, optimizer = begun(run)
    for step in run.steps(run.config["steps"]):
        inner(model, step)
        rates.Registry.made += 1
        optimizer.param_groups[0]["lr"] = 0.1 / rates.Registry.made
        optimizer.step()


class Single:
    instance = None

    def __new__(cls):
        if cls.instance is None:
            cls.instance = super().__new__(cls)
            cls.instance.n = 0
        return cls.instance


@program(steps=6, in_suite=False)
def singleton_made_in_the_loop(run: surefoot.Run) -> None:
    Single.instance = None
    model, optimizer = begun(run)
    for step in run.steps(run.config["steps"]):
        inner(model, step)
        Single().n += 1
        optimizer.param_groups[0]["lr"] = 0.1 / Single().n
        optimizer.step()


class Alternates:
    """An iterator of the user's own."""

    def __init__(self, values):
        self.values, self.at = values, -1

    def __iter__(self):
        return self

    def __next__(self):
        self.at = (self.at + 1) % len(self.values)
        return self.values[self.at]


@program(steps=6, in_suite=False)
def iterator_of_the_users_own(run: surefoot.Run) -> None:
    model, optimizer = begun(run)
    rates = Alternates([0.1, 0.05, 0.01])
    for step in run.steps(run.config["steps"]):
        optimizer.param_groups[0]["lr"] = next(rates)
        inner(model, step)
        optimizer.step()


@program(steps=6)
def iterator_over_a_list_in_an_object(run: surefoot.Run) -> None:
    class Plan:
        def __init__(self):
            self.rates = iter([0.1, 0.05, 0.02, 0.01, 0.005, 0.001, 0.0])
            self.names = map(str.upper, "abcdefgh")

    model, optimizer = begun(run)
    plan = Plan()
    for step in run.steps(run.config["steps"]):
        optimizer.param_groups[0]["lr"] = next(plan.rates) * (1 + (next(plan.names) == "B"))
        inner(model, step)
        optimizer.step()


@program(refused="generator")
def generator_in_an_object(run: surefoot.Run) -> None:
    class Plan:
        def __init__(self):
            self.rates = (0.1 / (1 + n) for n in range(100))

    model, optimizer = begun(run)
    plan = Plan()
    for step in run.steps(run.config["steps"]):
        optimizer.param_groups[0]["lr"] = next(plan.rates)
        inner(model, step)
        optimizer.step()


@program(steps=6)
def partial_over_a_list(run: surefoot.Run) -> None:
    def push(into, value):
        into.append(value)
        return sum(into)

    model, optimizer = begun(run)
    total = functools.partial(push, [])
    for step in run.steps(run.config["steps"]):
        inner(model, step)
        optimizer.param_groups[0]["lr"] = 0.1 / (1 + total(step.merged["loss"]))
        optimizer.step()


@program(steps=6, in_suite=False)
def bound_methods_as_callbacks(run: surefoot.Run) -> None:
    class Warm:
        def __init__(self):
            self.n = 0

        def rate(self):
            self.n += 1
            return 0.02 * self.n

    model, optimizer = begun(run)
    hooks = {"rate": Warm().rate}
    for step in run.steps(run.config["steps"]):
        optimizer.param_groups[0]["lr"] = hooks["rate"]()
        inner(model, step)
        optimizer.step()


@program(steps=6)
def heap_array_decimal_and_set(run: surefoot.Run) -> None:
    model, optimizer = begun(run)
    heap, numbers, exact, seen = [], array("d"), Decimal("0.1"), set()
    for step in run.steps(run.config["steps"]):
        inner(model, step)
        heapq.heappush(heap, (step.merged["loss"], step.number))
        if len(heap) > 3:
            heapq.heappop(heap)
        numbers.append(step.merged["loss"])
        exact *= Decimal("0.9")
        seen.add(step.number % 3)
        optimizer.param_groups[0]["lr"] = float(exact) * heap[0][0] * sum(numbers[-2:]) * len(seen) / 5
        optimizer.step()


@program(steps=6, in_suite=False)
def chain_map_and_user_containers(run: surefoot.Run) -> None:
    class Board(collections.UserDict):
        """Scores."""

    model, optimizer = begun(run)
    board, chain = Board(), collections.ChainMap({}, {"lr": 0.1})
    for step in run.steps(run.config["steps"]):
        inner(model, step)
        board[step.number] = step.merged["loss"]
        chain["lr"] = chain["lr"] * 0.9
        optimizer.param_groups[0]["lr"] = chain["lr"] * sum(board.values())
        optimizer.step()


@program(steps=6)
def arrays_of_numpy_resized(run: surefoot.Run) -> None:
    model, optimizer = begun(run)
    losses, table = np.array([]), np.zeros((2, 3))
    for step in run.steps(run.config["steps"]):
        inner(model, step)
        losses = np.append(losses, step.merged["loss"])
        table[step.number % 2] += losses[-1]
        optimizer.param_groups[0]["lr"] = float(losses.mean() * 0.05 + table.sum() * 0.001)
        optimizer.step()


@program(steps=6)
def tensors_that_grow(run: surefoot.Run) -> None:
    """A memory of features by torch.cat, and one resized in place."""
    model, optimizer = begun(run)
    memory, other = torch.empty(0, 3), torch.zeros(1)
    for step in run.steps(run.config["steps"]):
        for x, y in step.batches(POINTS):
            out = model(x)
            loss = F.cross_entropy(out, y) + (0.1 * (out.mean(0) - memory.mean(0)).pow(2).sum() if len(memory) else 0)
            loss.backward()
            step.log(loss=loss)
        optimizer.step()
        memory = torch.cat([memory, torch.full((1, 3), step.merged["loss"])])[-4:]
        other.resize_(len(memory)).fill_(float(len(memory)))
        optimizer.param_groups[0]["lr"] = 0.1 / float(other.sum())


@program(steps=6, in_suite=False)
def models_by_name_with_a_best_one(run: surefoot.Run) -> None:
    """Population: two models, the worse takes the better one's weights, with noise."""
    models = nn.ModuleDict({"a": mlp(), "b": mlp()})
    optimizers = {n: torch.optim.SGD(m.parameters(), lr=0.1 / (i + 1)) for i, (n, m) in enumerate(models.items())}
    scores = dict.fromkeys(models, math.inf)
    run.track(models=models, **{f"optimizer_{n}": o for n, o in optimizers.items()})
    for step in run.steps(run.config["steps"]):
        for x, y in step.batches(POINTS):
            losses = {n: F.cross_entropy(m(x), y) for n, m in models.items()}
            sum(losses.values()).backward()
            step.log(**{n: v.detach() for n, v in losses.items()})
        for o in optimizers.values():
            o.step()
        for n in models:
            scores[n] = 0.5 * min(scores[n], 5) + 0.5 * step.merged[n]
        if step.every(2):
            good, bad = sorted(scores, key=scores.get)
            with torch.no_grad():
                for p, q in zip(models[bad].parameters(), models[good].parameters(), strict=True):
                    p.copy_(q + 0.01 * torch.randn_like(q))
            optimizers[bad].param_groups[0]["lr"] = optimizers[good].param_groups[0]["lr"] * random.choice([0.8, 1.2])


@program(steps=6)
def attributes_of_the_model_that_the_loop_changes(run: surefoot.Run) -> None:
    """Lists, dicts, tensors and objects in attributes of a module, which are no buffers."""

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = mlp()
            self.scale, self.history, self.options = torch.ones(1), [], {"drop": 0.5}

        def forward(self, x):
            x = F.dropout(x, self.options["drop"], self.training)
            return self.body(x) * self.scale * (1 + 0.1 * len(self.history))

    model = Net()
    optimizer = sgd(model)
    run.track(model=model, optimizer=optimizer)
    for step in run.steps(run.config["steps"]):
        inner(model, step)
        optimizer.step()
        model.scale = model.scale * 0.9
        model.history.append(step.merged["loss"])
        model.options["drop"] *= 0.8


@program(steps=6, in_suite=False)
def scaler_with_the_whole_protocol(run: surefoot.Run) -> None:
    model = mlp()
    optimizer = torch.optim.AdamW(model.parameters(), lr=torch.tensor(0.01))
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**8, growth_interval=2)
    warm = lr_scheduler.LambdaLR(optimizer, lambda n: min(1.0, (n + 1) / 4))
    run.track(model=model, optimizer=optimizer, scaler=scaler, warm=warm)
    for step in run.steps(run.config["steps"]):
        for x, y in step.batches(POINTS):
            with torch.autocast("cpu", dtype=torch.bfloat16):
                loss = F.cross_entropy(model(x), y)
            scaler.scale(loss).backward()
            step.log(loss=loss)
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad(set_to_none=True)
        warm.step()


class SAM(torch.optim.Optimizer):
    """The widely copied SAM, with a base optimizer inside."""

    def __init__(self, params, base, rho=0.05, **kwargs):
        super().__init__(params, dict(rho=rho, **kwargs))
        self.base_optimizer = base(self.param_groups, **kwargs)
        self.param_groups = self.base_optimizer.param_groups

    @torch.no_grad()
    def first_step(self):
        norm = torch.norm(torch.stack([p.grad.norm() for g in self.param_groups for p in g["params"]]))
        for g in self.param_groups:
            for p in g["params"]:
                self.state[p]["old"] = p.data.clone()
                p.add_(p.grad * g["rho"] / (norm + 1e-12))

    @torch.no_grad()
    def second_step(self):
        for g in self.param_groups:
            for p in g["params"]:
                p.data = self.state[p]["old"]
        self.base_optimizer.step()

    def step(self, closure=None):
        raise NotImplementedError


@program(steps=6)
def sam_of_the_well_known_repository(run: surefoot.Run) -> None:
    model = mlp()
    optimizer = SAM(model.parameters(), torch.optim.SGD, lr=0.1, momentum=0.9)
    run.track(model=model, optimizer=optimizer)
    for step in run.steps(run.config["steps"]):
        inner(model, step)
        optimizer.first_step()
        optimizer.zero_grad()
        for x, y in step.batches(POINTS):
            F.cross_entropy(model(x), y).backward()
        optimizer.second_step()
        optimizer.zero_grad()


@program(steps=8)
def epochs_with_validation_and_plateau(run: surefoot.Run) -> None:
    """The tutorial's shape: at an epoch's end evaluate, step the plateau schedule, keep the best state, early stopping."""
    model = mlp()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    schedule = lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.5, patience=0)
    run.track(model=model, optimizer=optimizer, schedule=schedule)
    best, best_state, wait = math.inf, None, 0
    for step in run.steps(run.config["steps"]):
        inner(model, step, Points())
        optimizer.step()
        if step.ends_epoch or step.every(3):
            for x, y in step.evaluate(POINTS):
                out = model(x)
                step.log(val=F.cross_entropy(out, y), accuracy=(out.argmax(1) == y).float().mean())
            schedule.step(step.merged["val"])
            if step.merged["val"] < best:
                best, wait = step.merged["val"], 0
                best_state = {k: v.detach().cpu().clone() for k, v in model.state_dict().items()}
            else:
                wait += 1
                if wait > 5:
                    break
    if best_state is not None:
        model.load_state_dict(best_state)


@program(refused="DataLoader", in_suite=False)
def a_data_loader_is_given(run: surefoot.Run) -> None:
    model, optimizer = begun(run)
    loader = DataLoader(POINTS, batch_size=16, shuffle=True)
    for step in run.steps(run.config["steps"]):
        inner(model, step, loader)
        optimizer.step()


@program(refused="inner loop", in_suite=False)
def one_cycle_stepped_a_batch(run: surefoot.Run) -> None:
    model = mlp()
    optimizer = sgd(model)
    schedule = lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=100)
    run.track(model=model, optimizer=optimizer, schedule=schedule)
    for step in run.steps(run.config["steps"]):
        for x, y in step.batches(POINTS):
            F.cross_entropy(model(x), y).backward()
            schedule.step()
        optimizer.step()


@program(steps=6, in_suite=False)
def numpy_generator_carried_on(run: surefoot.Run) -> None:
    """Only the loop over steps draws from it."""
    model, optimizer = begun(run)
    rng = np.random.default_rng(0)
    for step in run.steps(run.config["steps"]):
        inner(model, step, scale=float(rng.uniform(0.5, 1.5)))
        optimizer.step()


@program(refused="computed twice|sub-tasks draw from it", in_suite=False)
def numpy_generator_carried_on_in_sub_tasks(run: surefoot.Run) -> None:
    model, optimizer = begun(run)
    rng = np.random.default_rng(0)
    for step in run.steps(run.config["steps"]):
        for x, y in step.batches(POINTS):
            rng.normal(size=3)
            F.cross_entropy(model(x), y).backward()
        optimizer.step()
