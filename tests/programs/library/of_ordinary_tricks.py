"""Ordinary training code: weights averaged, noised, regularised, pruned and scheduled by hand, as people publish it."""

import argparse
import copy
import dataclasses
import enum
import functools
import itertools
import logging
import math
import random
import time
import types
from collections import Counter, OrderedDict, defaultdict, deque, namedtuple
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from kinds import IMAGES, POINTS, TOKENS, Points, mlp, program, waves
from practice import sgd
from torch import nn
from torch.optim import lr_scheduler, swa_utils
from torch.utils.data import ConcatDataset, Dataset, Subset, TensorDataset, random_split

import surefoot

logger = logging.getLogger(__name__)


def inner(model, step, data=POINTS, loss_of=F.cross_entropy, **how):
    for x, y in step.batches(data, **how):
        loss = loss_of(model(x), y)
        loss.backward()
        step.log(loss=loss)


@program(steps=6)
def namespace_of_arguments(run: surefoot.Run) -> None:
    """argparse's args, whose rate the loop changes."""
    args = argparse.ArgumentParser().parse_args([])
    args.lr, args.decay = 0.1, 0.8
    model = mlp()
    optimizer = sgd(model)
    run.track(model=model, optimizer=optimizer)
    for step in run.steps(run.config["steps"]):
        for group in optimizer.param_groups:
            group["lr"] = args.lr
        inner(model, step)
        optimizer.step()
        args.lr *= args.decay


@program(steps=6, in_suite=False)
def simple_namespace_nested(run: surefoot.Run) -> None:
    cfg = types.SimpleNamespace(optim=types.SimpleNamespace(lr=0.1), seen=0)
    model = mlp()
    optimizer = sgd(model)
    run.track(model=model, optimizer=optimizer)
    for step in run.steps(run.config["steps"]):
        optimizer.param_groups[0]["lr"] = cfg.optim.lr / (1 + cfg.seen)
        inner(model, step)
        optimizer.step()
        cfg.optim.lr *= 0.9
        cfg.seen += 1


@dataclasses.dataclass(frozen=True)
class TrainState:
    step: int = 0
    best: float = math.inf
    history: tuple = ()


@program(steps=6)
def frozen_state_replaced(run: surefoot.Run) -> None:
    """A frozen dataclass, replaced at every step."""
    model = mlp()
    optimizer = sgd(model)
    run.track(model=model, optimizer=optimizer)
    state = TrainState()
    for step in run.steps(run.config["steps"]):
        inner(model, step)
        state = dataclasses.replace(
            state, step=state.step + 1, best=min(state.best, step.merged["loss"]), history=(*state.history, step.number)
        )
        optimizer.param_groups[0]["lr"] = 0.1 / (state.step + len(state.history)) + 0.001 * state.best
        optimizer.step()


class Progress(NamedTuple):
    done: int
    best: float


@program(steps=6, in_suite=False)
def named_tuple_replaced(run: surefoot.Run) -> None:
    model = mlp()
    optimizer = sgd(model)
    run.track(model=model, optimizer=optimizer)
    at = Progress(0, 9.0)
    for step in run.steps(run.config["steps"]):
        inner(model, step)
        at = at._replace(done=at.done + 1, best=min(at.best, step.merged["loss"]))
        optimizer.param_groups[0]["lr"] = 0.1 / at.done * at.best
        optimizer.step()


class Phase(enum.Enum):
    WARM = 1
    MAIN = 2
    COOL = 3


@program(steps=6, in_suite=False)
def phase_in_an_enum(run: surefoot.Run) -> None:
    model = mlp()
    optimizer = sgd(model)
    run.track(model=model, optimizer=optimizer)
    phase = Phase.WARM
    for step in run.steps(run.config["steps"]):
        optimizer.param_groups[0]["lr"] = {Phase.WARM: 0.01, Phase.MAIN: 0.1, Phase.COOL: 0.001}[phase]
        inner(model, step)
        optimizer.step()
        if phase is Phase.WARM and step.number == 1:
            phase = Phase.MAIN
        elif phase is Phase.MAIN and step.number == 3:
            phase = Phase.COOL


@program(steps=6, in_suite=False)
def counts_in_a_counter(run: surefoot.Run) -> None:
    model = mlp()
    optimizer = sgd(model)
    run.track(model=model, optimizer=optimizer)
    seen, kept = Counter(), OrderedDict()
    for step in run.steps(run.config["steps"]):
        inner(model, step)
        seen["up" if step.merged["loss"] > 1.1 else "down"] += 1
        kept[step.number] = step.merged["loss"]
        if len(kept) > 2:
            kept.popitem(last=False)
        optimizer.param_groups[0]["lr"] = 0.05 * (1 + seen["up"]) * sum(kept.values())
        optimizer.step()


Transition = namedtuple("Transition", "value weight")


@program(steps=6)
def replay_of_named_tuples(run: surefoot.Run) -> None:
    """A buffer of transitions in a deque, sampled between steps."""
    model = mlp()
    optimizer = sgd(model)
    run.track(model=model, optimizer=optimizer)
    memory = deque(maxlen=4)
    for step in run.steps(run.config["steps"]):
        memory.append(Transition(torch.full((8,), step.number / 10), random.random()))
        drawn = random.choices(memory, k=2)
        shift = sum(t.value * t.weight for t in drawn)
        for x, y in step.batches(POINTS):
            loss = F.cross_entropy(model(x + shift), y)
            loss.backward()
            step.log(loss=loss)
        optimizer.step()


class Callback:
    def on_step_end(self, trainer):
        """Do nothing."""


class EarlyDecay(Callback):
    def __init__(self):
        self.wait, self.best = 0, math.inf

    def on_step_end(self, trainer):
        self.wait = 0 if trainer.loss < self.best else self.wait + 1
        self.best = min(self.best, trainer.loss)
        if self.wait:
            for g in trainer.optimizer.param_groups:
                g["lr"] *= 0.5


class History(Callback):
    def __init__(self):
        self.logs = defaultdict(list)

    def on_step_end(self, trainer):
        self.logs["loss"].append(trainer.loss)
        trainer.scale = 1 + 0.1 * sum(self.logs["loss"][-2:])


class Trainer:
    """A trainer class with callbacks, in the shape of Lightning and Keras."""

    def __init__(self, model, optimizer, callbacks):
        self.model, self.optimizer, self.callbacks = model, optimizer, callbacks
        self.global_step, self.loss, self.scale = 0, math.inf, 1.0

    def training_step(self, batch):
        x, y = batch
        return F.cross_entropy(self.model(x), y) * self.scale

    def fit(self, run, data):
        for step in run.steps(run.config["steps"]):
            self.model.train()
            for batch in step.batches(data):
                loss = self.training_step(batch)
                loss.backward()
                step.log(loss=loss.detach())
            self.optimizer.step()
            self.optimizer.zero_grad()
            self.global_step += 1
            self.loss = step.merged["loss"]
            for callback in self.callbacks:
                callback.on_step_end(self)


@program(steps=6)
def trainer_with_callbacks(run: surefoot.Run) -> None:
    model = mlp()
    optimizer = sgd(model)
    run.track(model=model, optimizer=optimizer)
    Trainer(model, optimizer, [EarlyDecay(), History()]).fit(run, POINTS)


@program(steps=6, in_suite=False)
def stochastic_weight_averaging(run: surefoot.Run) -> None:
    """SWA as in torch's tutorial: the average, SWALR, and batch norm updated by an evaluation at the end."""
    model = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))
    optimizer = sgd(model)
    average = swa_utils.AveragedModel(model)
    swa = swa_utils.SWALR(optimizer, swa_lr=0.05, anneal_epochs=2)
    cosine = lr_scheduler.CosineAnnealingLR(optimizer, 10)
    run.track(model=model, optimizer=optimizer, average=average, swa=swa, cosine=cosine)
    for step in run.steps(run.config["steps"]):
        inner(model, step)
        optimizer.step()
        if step.number >= 3:
            average.update_parameters(model)
            swa.step()
        else:
            cosine.step()
    swa_utils.update_bn([(POINTS[0][0][None].expand(4, 8) + torch.arange(4.0)[:, None],)], average)


@program(steps=6, in_suite=False)
def polyak_average_by_hand(run: surefoot.Run) -> None:
    """An average in a list of tensors, swapped in for the evaluation, and out again."""
    model = mlp()
    optimizer = sgd(model)
    run.track(model=model, optimizer=optimizer)
    average = [p.detach().clone() for p in model.parameters()]
    for step in run.steps(run.config["steps"]):
        inner(model, step)
        optimizer.step()
        with torch.no_grad():
            for a, p in zip(average, model.parameters(), strict=True):
                a.mul_(0.9).add_(p, alpha=0.1)
        if step.every(2):
            stored = [p.detach().clone() for p in model.parameters()]
            with torch.no_grad():
                for a, p in zip(average, model.parameters(), strict=True):
                    p.copy_(a)
            for x, y in step.evaluate(POINTS):
                step.log(accuracy=(model(x).argmax(1) == y).float().mean())
            with torch.no_grad():
                for s, p in zip(stored, model.parameters(), strict=True):
                    p.copy_(s)
            optimizer.param_groups[0]["lr"] = 0.1 * step.merged["accuracy"]


@program(steps=6, in_suite=False)
def lookahead_by_hand(run: surefoot.Run) -> None:
    model = mlp()
    optimizer = sgd(model)
    run.track(model=model, optimizer=optimizer)
    slow = {n: p.detach().clone() for n, p in model.named_parameters()}
    k = 0
    for step in run.steps(run.config["steps"]):
        inner(model, step)
        optimizer.step()
        k += 1  # noqa: SIM113  as people write it
        if k % 2 == 0:
            with torch.no_grad():
                for n, p in model.named_parameters():
                    slow[n] += 0.5 * (p - slow[n])
                    p.copy_(slow[n])


@program(steps=6, in_suite=False)
def elastic_weight_consolidation(run: surefoot.Run) -> None:
    """Two tasks; after the first, parameters are kept with their importance, and pulled back."""
    model = mlp()
    optimizer = sgd(model)
    run.track(model=model, optimizer=optimizer)
    old, fisher = {}, {}
    for step in run.steps(run.config["steps"]):
        for x, y in step.batches(POINTS):
            loss = F.cross_entropy(model(x), y)
            for n, p in model.named_parameters():
                if n in old:
                    loss = loss + (fisher[n] * (p - old[n]) ** 2).sum()
            loss.backward()
            step.log(loss=loss)
        if step.number < 3:
            for n, p in model.named_parameters():
                fisher[n] = fisher.get(n, 0) + p.grad.detach() ** 2
        optimizer.step()
        if step.number == 2:
            old = {n: p.detach().clone() for n, p in model.named_parameters()}


@program(steps=6)
def iterative_magnitude_pruning(run: surefoot.Run) -> None:
    """The lottery ticket: masks in a dict, weights rewound to the first ones."""
    model = mlp()
    first = copy.deepcopy(model.state_dict())
    optimizer = sgd(model)
    run.track(model=model, optimizer=optimizer)
    masks = {n: torch.ones_like(p) for n, p in model.named_parameters() if p.dim() > 1}
    for step in run.steps(run.config["steps"]):
        inner(model, step)
        for n, p in model.named_parameters():
            if n in masks:
                p.grad *= masks[n]
        optimizer.step()
        if step.every(2):
            with torch.no_grad():
                for n, p in model.named_parameters():
                    if n in masks:
                        masks[n] = masks[n] * (p.abs() > p.abs().median() * 0.5)
                model.load_state_dict(first)
                for n, p in model.named_parameters():
                    if n in masks:
                        p.mul_(masks[n])


@program(steps=6, in_suite=False)
def gradient_noise_and_centralisation(run: surefoot.Run) -> None:
    model = mlp()
    optimizer = sgd(model)
    run.track(model=model, optimizer=optimizer)
    for step in run.steps(run.config["steps"]):
        inner(model, step)
        for p in model.parameters():
            p.grad += torch.randn_like(p) * 0.01 / (1 + step.number) ** 0.55
            if p.dim() > 1:
                p.grad -= p.grad.mean(dim=1, keepdim=True)
        torch.nn.utils.clip_grad_value_(model.parameters(), 0.1)
        optimizer.step()
        optimizer.zero_grad(set_to_none=False)


@program(steps=6)
def gradients_surgery_of_two_tasks(run: surefoot.Run) -> None:
    """PCGrad: two rounds, gradients kept by hand, projected, put back."""
    model = mlp()
    optimizer = sgd(model)
    run.track(model=model, optimizer=optimizer)
    other = TensorDataset(waves(100, 8) * 2, torch.arange(100) % 3)
    for step in run.steps(run.config["steps"]):
        kept = []
        for data in (POINTS, other):
            inner(model, step, data)
            kept.append([p.grad.clone() for p in model.parameters()])
            if data is POINTS:
                step.discard_gradients()
        dot = sum((a * b).sum() for a, b in zip(*kept, strict=True))
        norm = sum((b * b).sum() for b in kept[1])
        for p, a, b in zip(model.parameters(), *kept, strict=True):
            p.grad = a + b - (dot / norm * b if dot < 0 else 0)
        optimizer.step()


@program(steps=6, in_suite=False)
def gradient_clipping_by_history(run: surefoot.Run) -> None:
    """AutoClip: the clipping norm is a percentile of all norms so far."""
    model = mlp()
    optimizer = sgd(model)
    run.track(model=model, optimizer=optimizer)
    norms = []
    for step in run.steps(run.config["steps"]):
        inner(model, step)
        total = torch.norm(torch.stack([p.grad.norm() for p in model.parameters()])).item()
        norms.append(total)
        nn.utils.clip_grad_norm_(model.parameters(), float(np.percentile(norms, 10)))
        optimizer.step()


@program(steps=6, in_suite=False)
def loss_scale_by_hand(run: surefoot.Run) -> None:
    """Dynamic loss scaling with plain variables."""
    model = mlp()
    optimizer = sgd(model)
    run.track(model=model, optimizer=optimizer)
    scale, good = 2.0**10, 0
    for step in run.steps(run.config["steps"]):
        for x, y in step.batches(POINTS):
            loss = F.cross_entropy(model(x), y)
            (loss * scale).backward()
            step.log(loss=loss)
        if all(torch.isfinite(p.grad).all() for p in model.parameters()):
            for p in model.parameters():
                p.grad /= scale
            optimizer.step()
            good += 1
            if good == 2:
                scale, good = scale * 2, 0
        else:
            scale, good = scale / 2, 0
            step.discard_gradients()


@program(steps=6, in_suite=False)
def uncertainty_weights_and_two_heads(run: surefoot.Run) -> None:
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.one, self.two = nn.Linear(8, 8), nn.Linear(8, 3), nn.Linear(8, 1)
            self.log_vars = nn.Parameter(torch.zeros(2))

        def forward(self, x, y):
            h = self.body(x).relu()
            losses = torch.stack([F.cross_entropy(self.one(h), y), F.mse_loss(self.two(h)[:, 0], y.float())])
            return (losses * torch.exp(-self.log_vars) + self.log_vars).sum(), losses

    model = Two()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    run.track(model=model, optimizer=optimizer)
    for step in run.steps(run.config["steps"]):
        for x, y in step.batches(POINTS):
            loss, parts = model(x, y)
            loss.backward()
            step.log(loss=loss, one=parts[0], two=parts[1])
        optimizer.step()


@program(steps=6, in_suite=False)
def dynamic_weight_average(run: surefoot.Run) -> None:
    """Task weights from the ratios of the last two steps' losses, in an array."""
    model = mlp()
    optimizer = sgd(model)
    run.track(model=model, optimizer=optimizer)
    losses, weights = np.ones((2, 2)), np.ones(2)
    for step in run.steps(run.config["steps"]):
        for x, y in step.batches(POINTS):
            out = model(x)
            one, two = F.cross_entropy(out, y), out.pow(2).mean()
            (one * float(weights[0]) + two * float(weights[1])).backward()
            step.log(one=one, two=two)
        optimizer.step()
        losses = np.stack([losses[1], [step.merged["one"], step.merged["two"]]])
        ratio = np.exp(losses[1] / losses[0])
        weights = 2 * ratio / ratio.sum()


@functools.cache
def rate_at(n):
    return 0.1 * 0.9**n


@program(steps=6, in_suite=False)
def rate_from_a_cached_function(run: surefoot.Run) -> None:
    model = mlp()
    optimizer = sgd(model)
    run.track(model=model, optimizer=optimizer)
    for step in run.steps(run.config["steps"]):
        optimizer.param_groups[0]["lr"] = rate_at(step.number)
        inner(model, step)
        optimizer.step()


class Cached(Dataset):
    def __len__(self):
        return 100

    @functools.lru_cache(maxsize=20)  # noqa: B019
    def load(self, i):
        return torch.sin(torch.arange(8) * (i + 1.0))

    def __getitem__(self, i):
        x = self.load(i)
        if random.random() < 0.5:
            x = x.flip(0)
        return x + np.random.normal(scale=0.1), i % 3


@program(steps=8)
def lru_cache_in_a_dataset(run: surefoot.Run) -> None:
    model = mlp()
    optimizer = sgd(model)
    run.track(model=model, optimizer=optimizer)
    data = Cached()
    for step in run.steps(run.config["steps"]):
        inner(model, step, data)
        optimizer.step()


@program(steps=8, data_workers=2)
def lru_cache_in_a_dataset_of_workers(run: surefoot.Run) -> None:
    model = mlp()
    optimizer = sgd(model)
    run.track(model=model, optimizer=optimizer)
    data = Cached()
    for step in run.steps(run.config["steps"]):
        inner(model, step, data)
        optimizer.step()


@program(steps=8, in_suite=False)
def splits_and_concatenations(run: surefoot.Run) -> None:
    whole = ConcatDataset([Points(), Points()])
    train, test = random_split(whole, [150, 50], generator=torch.Generator().manual_seed(3))
    model = mlp()
    optimizer = sgd(model)
    run.track(model=model, optimizer=optimizer)
    for step in run.steps(run.config["steps"]):
        inner(model, step, train)
        optimizer.step()
        if step.every(4):
            for x, y in step.evaluate(test):
                step.log(accuracy=(model(x).argmax(1) == y).float().mean())


@program(steps=6)
def active_learning(run: surefoot.Run) -> None:
    """A pool of indices moves to the training set, by predictions that are gathered."""
    model = mlp()
    optimizer = sgd(model)
    run.track(model=model, optimizer=optimizer)
    labelled, pool = list(range(30)), list(range(30, 100))
    for step in run.steps(run.config["steps"]):
        inner(model, step, Subset(POINTS, labelled))
        optimizer.step()
        if step.every(2) and len(pool) > 5:
            for x, _ in step.evaluate(Subset(POINTS, pool)):
                probabilities = model(x).softmax(1)
                step.gather(entropy=-(probabilities * probabilities.log()).sum(1))
            worst = step.gathered["entropy"].topk(5).indices.tolist()
            labelled += [pool[i] for i in worst]
            pool = [p for i, p in enumerate(pool) if i not in set(worst)]


@program(steps=6, in_suite=False)
def pseudo_labels(run: surefoot.Run) -> None:
    model = mlp()
    optimizer = sgd(model)
    run.track(model=model, optimizer=optimizer)
    x, y = POINTS.tensors
    labels = y.clone()
    data = TensorDataset(x, labels)
    for step in run.steps(run.config["steps"]):
        inner(model, step, data)
        optimizer.step()
        if step.every(3):
            for batch, _ in step.evaluate(POINTS):
                step.gather(label=model(batch).argmax(1))
            labels[50:] = step.gathered["label"][50:]


@program(steps=6, in_suite=False)
def sample_weights_by_boosting(run: surefoot.Run) -> None:
    """Weights a sample, in a tensor that the dataset hands out and the loop updates."""
    model = mlp()
    optimizer = sgd(model)
    run.track(model=model, optimizer=optimizer)
    x, y = POINTS.tensors
    weights = torch.ones(100)
    data = TensorDataset(x, y, weights)
    for step in run.steps(run.config["steps"]):
        for xs, ys, w in step.batches(data):
            loss = (F.cross_entropy(model(xs), ys, reduction="none") * w).mean()
            loss.backward()
            step.log(loss=loss)
        optimizer.step()
        if step.every(2):
            for xs, ys in step.evaluate(POINTS):
                step.gather(wrong=model(xs).argmax(1) != ys)
            weights.mul_(torch.where(step.gathered["wrong"], 1.2, 0.9))


@program(steps=6)
def timed_and_logged(run: surefoot.Run) -> None:
    """Timers, loggers, ETA, running means for print: none decides anything."""
    model = mlp()
    optimizer = sgd(model)
    run.track(model=model, optimizer=optimizer)
    started, window, best_time = time.time(), deque(maxlen=20), 1e9
    running, count = 0.0, 0
    for step in run.steps(run.config["steps"]):
        tick = time.perf_counter()
        for i, (x, y) in enumerate(step.batches(POINTS)):
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            running += loss.item() * len(x)
            count += len(x)
            if i % 2 == 0:
                logger.debug("loss %.3f mean %.3f", loss.item(), running / count)
            step.log(loss=loss)
        optimizer.step()
        window.append(time.perf_counter() - tick)
        best_time = min(best_time, window[-1])
        eta = (run.config["steps"] - step.number) * sum(window) / len(window)
        logger.debug("eta %s, %s since start", eta, time.time() - started)


@program(steps=6, in_suite=False)
def chained_and_sequential_schedules(run: surefoot.Run) -> None:
    model = mlp()
    optimizer = torch.optim.AdamW(
        [{"params": model[0].parameters(), "lr": 0.01}, {"params": model[2].parameters(), "weight_decay": 0.0}], lr=0.02
    )
    schedule = lr_scheduler.SequentialLR(
        optimizer,
        [
            lr_scheduler.ConstantLR(optimizer, 0.1, 2),
            lr_scheduler.ExponentialLR(optimizer, 0.9),
        ],
        [2],
    )
    chained = lr_scheduler.ChainedScheduler(
        [lr_scheduler.StepLR(optimizer, 2, 0.9), lr_scheduler.MultiStepLR(optimizer, [1, 4])]
    )
    run.track(model=model, optimizer=optimizer, schedule=schedule, chained=chained)
    for step in run.steps(run.config["steps"]):
        inner(model, step)
        optimizer.step()
        schedule.step()
        chained.step()


@program(steps=6, in_suite=False)
def cosine_with_restarts_by_fractions(run: surefoot.Run) -> None:
    model = mlp()
    optimizer = sgd(model)
    schedule = lr_scheduler.CosineAnnealingWarmRestarts(optimizer, 2, T_mult=2)
    run.track(model=model, optimizer=optimizer, schedule=schedule)
    for step in run.steps(run.config["steps"]):
        inner(model, step)
        optimizer.step()
        schedule.step(step.number + 0.5)


@program(steps=6, in_suite=False)
def weight_decay_schedule_and_layer_rates(run: surefoot.Run) -> None:
    """timm: layer-wise rates, and a cosine of the weight decay set by hand."""
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))
    groups = [{"params": list(m.parameters()), "lr_scale": 0.7 ** (2 - i)} for i, m in enumerate(model[::2])]
    optimizer = torch.optim.AdamW(groups, lr=0.01)
    run.track(model=model, optimizer=optimizer)
    total = run.config["steps"]
    for step in run.steps(total):
        t = step.number / total
        for group in optimizer.param_groups:
            group["lr"] = 0.01 * group["lr_scale"] * 0.5 * (1 + math.cos(math.pi * t))
            group["weight_decay"] = 0.1 + 0.3 * t
        inner(model, step)
        optimizer.step()


@program(steps=6, in_suite=False)
def best_checkpoint_in_bytes(run: surefoot.Run) -> None:
    """torch.save into a BytesIO that lives on; loaded when the loss grows."""
    import io

    model = mlp()
    optimizer = sgd(model)
    run.track(model=model, optimizer=optimizer)
    best, kept = math.inf, None
    for step in run.steps(run.config["steps"]):
        inner(model, step)
        optimizer.step()
        if step.merged["loss"] < best:
            best = step.merged["loss"]
            buffer = io.BytesIO()
            torch.save(model.state_dict(), buffer)
            kept = buffer.getvalue()
        elif kept is not None:
            model.load_state_dict(torch.load(io.BytesIO(kept)))


@program(steps=6)
def best_checkpoint_in_a_bytesio(run: surefoot.Run) -> None:
    import io

    model = mlp()
    optimizer = sgd(model)
    run.track(model=model, optimizer=optimizer)
    best, buffer = math.inf, io.BytesIO()
    for step in run.steps(run.config["steps"]):
        inner(model, step)
        optimizer.step()
        if step.merged["loss"] < best or step.number < 2:
            best = step.merged["loss"]
            buffer.seek(0)
            buffer.truncate()
            torch.save(model.state_dict(), buffer)
        else:
            buffer.seek(0)
            model.load_state_dict(torch.load(buffer))


@program(steps=6)
def random_state_kept_and_put_back(run: surefoot.Run) -> None:
    """The global random state is saved, a fixed seed used for something, and put back."""
    model = mlp()
    optimizer = sgd(model)
    run.track(model=model, optimizer=optimizer)
    for step in run.steps(run.config["steps"]):
        kept = torch.get_rng_state(), random.getstate(), np.random.get_state()
        torch.manual_seed(7)
        noise = torch.randn(8)
        torch.set_rng_state(kept[0])
        random.setstate(kept[1])
        np.random.set_state(kept[2])
        with torch.random.fork_rng():
            torch.manual_seed(step.number)
            noise = noise + torch.randn(8)
        for x, y in step.batches(POINTS):
            with torch.random.fork_rng():
                torch.manual_seed(3)
                drop = (torch.rand(8) > 0.2).float()
            loss = F.cross_entropy(model((x + noise) * drop * (1 + 0.1 * torch.rand(1))), y)
            loss.backward()
            step.log(loss=loss)
        optimizer.step()


@program(steps=6)
def alternating_freezing_by_apply(run: surefoot.Run) -> None:
    model = mlp()
    optimizer = sgd(model)
    run.track(model=model, optimizer=optimizer)
    parts = itertools.cycle([model[0], model[2]])
    for step in run.steps(run.config["steps"]):
        chosen = next(parts)
        model.requires_grad_(False)
        chosen.requires_grad_(True)
        inner(model, step)
        optimizer.step()


@program(steps=6, in_suite=False)
def images_with_mixup_and_label_smoothing(run: surefoot.Run) -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.GELU(), nn.Flatten(), nn.Linear(512, 3))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, amsgrad=True)
    run.track(model=model, optimizer=optimizer)
    for step in run.steps(run.config["steps"]):
        for x, y in step.batches(IMAGES):
            lam = np.random.beta(0.4, 0.4)
            index = torch.randperm(len(x))
            if random.random() < 0.5:
                x = lam * x + (1 - lam) * x[index]
            else:
                x = x.clone()
                x[:, :, :4, :4] = x[index, :, :4, :4]
            out = model(x.to(memory_format=torch.channels_last))
            loss = lam * F.cross_entropy(out, y, label_smoothing=0.1) + (1 - lam) * F.cross_entropy(out, y[index])
            loss.backward()
            step.log(loss=loss)
        optimizer.step()


@program(steps=6, in_suite=False)
def tokens_with_scheduled_sampling(run: surefoot.Run) -> None:
    """A decoder whose teacher forcing ratio falls with a global counter."""

    class Decoder(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.cell, self.out = nn.Embedding(23, 8), nn.GRUCell(8, 8), nn.Linear(8, 23)
            self.forcing = 1.0

        def forward(self, tokens):
            h, token, loss = torch.zeros(len(tokens), 8), tokens[:, 0], 0
            for t in range(1, tokens.shape[1]):
                h = self.cell(self.embed(token), h)
                logits = self.out(h)
                loss = loss + F.cross_entropy(logits, tokens[:, t])
                token = tokens[:, t] if random.random() < self.forcing else logits.argmax(1)
            return loss

    model = Decoder()
    optimizer = torch.optim.NAdam(model.parameters(), lr=0.01)
    run.track(model=model, optimizer=optimizer)
    for step in run.steps(run.config["steps"]):
        for x, _ in step.batches(TOKENS):
            loss = model(x)
            loss.backward()
            step.log(loss=loss)
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        model.forcing = max(0.2, model.forcing * 0.8)
