"""Habits of scripts: logs, early stopping, resuming by hand, loaders of their own, controllers without state_dict."""

import csv
import io
import math
from collections import defaultdict, deque

import numpy as np
import torch
import torch.nn.functional as F
import torch.utils.checkpoint
from kinds import POINTS, mlp, program
from practice import fit_tracked, sgd
from torch import nn
from torch.utils.data import Subset

import surefoot


class EarlyStopping:
    def __init__(self, patience=2):
        self.patience, self.best, self.bad, self.stop = patience, math.inf, 0, False

    def __call__(self, loss):
        if loss < self.best - 1e-9:
            self.best, self.bad = loss, 0
        else:
            self.bad += 1
            self.stop = self.bad >= self.patience


@program(steps=6)
def early_stopping_by_break(run: surefoot.Run) -> None:
    """An object with counters in attributes, untracked, decides; the loop is left by break."""
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    run.track(model=model, optimizer=optimizer)
    stopper = EarlyStopping(patience=20)
    for step in run.steps(run.config["steps"]):
        for x, y in step.batches(POINTS):
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            step.log(loss=loss)
        optimizer.step()
        stopper(step.merged["loss"])
        optimizer.param_groups[0]["lr"] = 0.1 / (1 + stopper.bad)
        if stopper.stop:
            break


@program(steps=6)
def logging_everywhere(run: surefoot.Run) -> None:
    """tqdm's shape, csv, a writer, torch.save in the loop."""

    class Writer:
        def __init__(self):
            self.rows, self.scalars = io.StringIO(), defaultdict(list)
            self.csv = csv.writer(self.rows)

        def add_scalar(self, tag, value, at):
            self.scalars[tag].append((at, value))
            self.csv.writerow([tag, value, at])

    class Bar:
        def __init__(self, it):
            self.it, self.n, self.postfix = it, 0, {}

        def __iter__(self):
            for x in self.it:
                yield x
                self.n += 1

        def set_postfix(self, **kw):
            self.postfix = kw

    model = mlp()
    optimizer = sgd(model)
    run.track(model=model, optimizer=optimizer)
    writer, file = Writer(), io.BytesIO()
    history = {"loss": [], "norm": []}
    bar = Bar(run.steps(run.config["steps"]))
    running = 0.0
    for step in bar:
        for x, y in step.batches(POINTS):
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            step.log(loss=loss)
            running = 0.9 * running + 0.1 * loss.item()
        norm = sum(p.grad.norm() ** 2 for p in model.parameters()) ** 0.5
        optimizer.step()
        optimizer.zero_grad()
        history["loss"].append(step.merged["loss"])
        history["norm"].append(norm)
        writer.add_scalar("loss", step.merged["loss"], step.number)
        bar.set_postfix(loss=running)
        torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step.number}, file)


@program(steps=8)
def unfreezing_by_layers(run: surefoot.Run) -> None:
    """Discriminative rates, layers unfrozen one by one; the optimizer has them all from the start."""
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))
    groups = [{"params": model[i].parameters(), "lr": 0.1 * 0.5**k} for k, i in enumerate((4, 2, 0))]
    optimizer = torch.optim.AdamW(groups)
    for p in [*model[0].parameters(), *model[2].parameters()]:
        p.requires_grad = False
    run.track(model=model, optimizer=optimizer)
    for step in run.steps(run.config["steps"]):
        if step.number == 2:
            model[2].requires_grad_(True)
        if step.number == 4:
            model[0].requires_grad_(True)
        for x, y in step.batches(POINTS):
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            step.log(loss=loss)
        optimizer.step()


@program(steps=8)
def epochs_and_plateau(run: surefoot.Run) -> None:
    """By epochs, an evaluation at the end of each, and ReduceLROnPlateau."""
    model = mlp()
    optimizer = sgd(model)
    schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0, factor=0.5)
    run.track(model=model, optimizer=optimizer, schedule=schedule)
    data = Subset(POINTS, range(32))
    for step in run.steps(epochs=4):
        for x, y in step.batches(data):
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            step.log(loss=loss)
        optimizer.step()
        if step.ends_epoch:
            for x, y in step.evaluate(POINTS):
                step.log(val=F.cross_entropy(model(x), y))
            schedule.step(step.merged["val"])


@program(steps=6)
def loader_in_the_outer_loop(run: surefoot.Run) -> None:
    """Validation by hand, through a DataLoader, on every trainer alike."""
    model = mlp()
    optimizer = sgd(model)
    schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0)
    run.track(model=model, optimizer=optimizer, schedule=schedule)
    loader = torch.utils.data.DataLoader(POINTS, batch_size=25)

    @torch.no_grad()
    def validate():
        model.eval()
        total = sum(F.cross_entropy(model(x), y, reduction="sum").item() for x, y in loader) / 100
        model.train()
        return total

    for step in run.steps(run.config["steps"]):
        for x, y in step.batches(POINTS):
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            step.log(loss=loss)
        optimizer.step()
        if step.every(2):
            schedule.step(validate())


@program(steps=8)
def warmup_wrapper_without_state(run: surefoot.Run) -> None:
    """The Noam wrapper of the annotated transformer: counts in `_step`, has no state_dict."""

    class Noam:
        def __init__(self, optimizer):
            self.optimizer, self._step, self._rate = optimizer, 0, 0

        def step(self):
            self._step += 1
            rate = 0.5 * min(self._step**-0.5, self._step * 4**-1.5)
            for p in self.optimizer.param_groups:
                p["lr"] = rate
            self._rate = rate
            self.optimizer.step()

        def zero_grad(self):
            self.optimizer.zero_grad()

    model = mlp()
    optimizer = Noam(torch.optim.Adam(model.parameters(), lr=0, betas=(0.9, 0.98), eps=1e-9))
    run.track(model=model, optimizer=optimizer.optimizer)
    fit_tracked(run, model, optimizer)


@program(steps=8)
def pid_controller_with_tensors(run: surefoot.Run) -> None:
    """An object of the user's without state_dict: floats, a deque, tensors small and larger."""

    class Control:
        def __init__(self, n):
            self.total, self.seen, self.v, self.parts = 0.0, deque(maxlen=3), torch.zeros(n), {"a": torch.ones(2)}

        def update(self, loss):
            self.total += loss
            self.seen.append(loss)
            self.v = 0.9 * self.v + loss
            self.parts["a"].mul_(0.9)
            return 1.0 / (1 + self.total + sum(self.seen) + float(self.v.mean()) + float(self.parts["a"].sum()))

    model, control = mlp(), Control(10)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    run.track(model=model, optimizer=optimizer)
    for step in run.steps(run.config["steps"]):
        for x, y in step.batches(POINTS):
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            step.log(loss=loss)
        optimizer.param_groups[0]["lr"] = control.update(step.merged["loss"])
        optimizer.step()


@program(steps=8)
def own_optimizer_without_torch(run: surefoot.Run) -> None:
    """A class with step() and a list of momenta, no torch Optimizer, no state_dict."""

    class Momentum:
        def __init__(self, params, lr):
            self.params, self.lr = list(params), lr
            self.buf = [torch.zeros_like(p) for p in self.params]

        @torch.no_grad()
        def step(self):
            for p, b in zip(self.params, self.buf, strict=True):
                if p.grad is not None:
                    b.mul_(0.9).add_(p.grad)
                    p.sub_(self.lr * b)

        def zero_grad(self):
            for p in self.params:
                p.grad = None

    model = mlp()
    optimizer = Momentum(model.parameters(), 0.1)
    run.track(model=model)
    fit_tracked(run, model, optimizer)


@program(steps=6)
def skipped_bad_steps(run: surefoot.Run) -> None:
    """Steps with a large norm are skipped, the gradients cleared."""
    model = mlp()
    optimizer = sgd(model)
    run.track(model=model, optimizer=optimizer)
    for step in run.steps(run.config["steps"]):
        for x, y in step.batches(POINTS):
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            step.log(loss=loss)
        norm = nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        if norm > 0.28:
            step.discard_gradients()
            continue
        optimizer.step()


@program(steps=6)
def statistics_from_data_before(run: surefoot.Run) -> None:
    """Before steps(): statistics of the data, initialisation by data (ActNorm), random projections drawn, a split drawn."""
    torch.manual_seed(1)
    train_set, _held = torch.utils.data.random_split(POINTS, [80, 20])
    mean = torch.stack([x for x, _ in train_set]).mean(0)
    model = mlp()
    with torch.no_grad():
        model(torch.stack([x for x, _ in train_set]) - mean)
    projection = torch.randn(8, 8) / 8**0.5
    optimizer = sgd(model)
    run.track(model=model, optimizer=optimizer)
    for step in run.steps(run.config["steps"]):
        for x, y in step.batches(train_set):
            loss = F.cross_entropy(model((x - mean) @ projection), y)
            loss.backward()
            step.log(loss=loss)
        optimizer.step()


@program(refused="closure")
def closure_for_adam(run: surefoot.Run) -> None:
    """optimizer.step(closure) with an optimizer that does not need one."""
    model = mlp()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    run.track(model=model, optimizer=optimizer)
    for step in run.steps(run.config["steps"]):
        for x, y in step.batches(POINTS):
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            step.log(loss=loss)
        optimizer.step(lambda loss=loss: loss)


@program(steps=6)
def generator_seeded_by_the_step(run: surefoot.Run) -> None:
    model = mlp()
    optimizer = sgd(model)
    run.track(model=model, optimizer=optimizer)
    g = torch.Generator()
    rng = np.random.default_rng(3)
    table = rng.normal(size=(8,)).astype(np.float32)
    for step in run.steps(run.config["steps"]):
        g.manual_seed(step.number)
        noise = torch.randn(8, generator=g) + torch.from_numpy(table)
        for x, y in step.batches(POINTS):
            loss = F.cross_entropy(model(x + noise), y)
            loss.backward()
            step.log(loss=loss)
        optimizer.step()


@program(steps=6)
def resumes_by_hand(run: surefoot.Run) -> None:
    """A checkpoint file is loaded when there is one, at the start, and written at the end: the habit of every script."""
    import os

    path = "/tmp/sf-there-is-no-such-file.pt"
    model = mlp()
    optimizer = sgd(model)
    start = 0
    if os.path.exists(path):
        start = torch.load(path)["step"]
    run.track(model=model, optimizer=optimizer)
    for step in run.steps(run.config["steps"]):
        if step.number < start:
            continue
        for x, y in step.batches(POINTS):
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            step.log(loss=loss)
        optimizer.step()
    torch.save({"model": model.state_dict(), "step": 6}, io.BytesIO())


@program(steps=6)
def while_with_next(run: surefoot.Run) -> None:
    """steps and batches by next() and while, with enumerate and zip."""
    model = mlp()
    optimizer = sgd(model)
    run.track(model=model, optimizer=optimizer)
    steps = iter(run.steps(run.config["steps"]))
    while True:
        try:
            step = next(steps)
        except StopIteration:
            break
        for _i, (x, y) in enumerate(step.batches(POINTS)):
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            step.log(loss=loss)
        optimizer.step()


@program(steps=6)
def gradients_scaled_and_averaged(run: surefoot.Run) -> None:
    """Scripts divide by the world size, all-reduce only where a group is, and average meters."""
    import torch.distributed as dist

    model = mlp()
    optimizer = sgd(model)
    run.track(model=model, optimizer=optimizer)
    world = dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1
    for step in run.steps(run.config["steps"]):
        for x, y in step.batches(POINTS):
            loss = F.cross_entropy(model(x), y) / world
            loss.backward()
            step.log(loss=loss)
        optimizer.step()
