"""Programs made of pieces: a `Recipe` says which, and `train` is the program that it describes.

A recipe is plain values, so that it can be printed, sent to real trainers as config, and told again. The first value of every choice is
the plain one: a failing recipe is made simpler by going back to it, field by field.
"""

from __future__ import annotations

import contextlib
import dataclasses
import random
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import torch.nn.utils.parametrizations as P
from kinds import Points, waves
from of_data import Arrays, Drawing, Growing, Lists, Stages, odd, pad
from of_layers import Extra, Odd, StochasticDepth, Unused
from of_optimizers import Counting, Lamb, LookaheadOptimizer, Shared
from of_schedules import Shadow
from torch import nn
from torch.optim import lr_scheduler as lr
from torch.optim import swa_utils
from torch.utils.data import TensorDataset

import surefoot

CHOICES: dict[str, tuple[Any, ...]] = {
    "format": ("contiguous", "channels_last", "transposed"),
    "optimizer": (
        "SGD", "AdamW", "Adam", "NAdam", "RAdam", "RMSprop", "Adagrad", "Adadelta", "Adamax", "ASGD", "Rprop", "Adafactor",
        "Lamb", "Lookahead", "Counting", "Shared",
    ),
    "flavour": ("plain", "foreach", "fused", "per_tensor"),
    "tensor_rate": (False, True),
    "schedule": ("", "StepLR", "OneCycleLR", "LambdaLR", "CosineAnnealingLR", "ReduceLROnPlateau", "SequentialLR"),
    "average": ("", "AveragedModel", "ema", "shadow"),
    "freeze": ("", "before", "between", "after"),
    "thaw": (False, True),
    "zero": ("", "none", "zeros"),
    "clip": (False, True),
    "rounds": (1, 2),
    "autocast": ("", "inside", "round", "loop"),
    "data": ("tensors", "points", "drawing", "odd", "stages", "growing", "padded", "odd_batches"),
    "workers": (0, 1, 2),
    "evaluate": (False, True),
    "weigh": (False, True),
    "add_group": (False, True),
    "accumulate": (False, True),
    "dtype": ("float32", "float64", "bfloat16"),
}  # fmt: skip
LAYERS = (
    "linear",
    "conv",
    "norm",
    "dropout",
    "weight_norm",
    "spectral_norm",
    "extra",
    "odd",
    "depth",
    "unused",
    "layer_norm",
    "gru",
    "lazy",
    "script",
)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One program. `seed` is the job's; `at` is the step at which what happens once happens."""

    layers: tuple[str, ...] = ("linear",)
    format: str = "contiguous"
    optimizer: str = "SGD"
    flavour: str = "plain"
    tensor_rate: bool = False
    schedule: str = ""
    average: str = ""
    freeze: str = ""
    thaw: bool = False
    zero: str = ""
    clip: bool = False
    rounds: int = 1
    autocast: str = ""
    data: str = "tensors"
    workers: int = 0
    evaluate: bool = False
    weigh: bool = False
    add_group: bool = False
    accumulate: bool = False
    dtype: str = "float32"
    at: int = 2
    steps: int = 6
    sub_tasks: int = 4
    samples: int = 4
    seed: int = 0

    def fields(self) -> dict[str, Any]:
        """Return what differs from the plain program."""
        own = dataclasses.asdict(self)
        return {f.name: own[f.name] for f in dataclasses.fields(self) if own[f.name] != f.default}


def read(fields: dict[str, Any]) -> Recipe:
    """Undo `Recipe.fields`, after JSON too."""
    return Recipe(**{k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()})


# ---- what a program is made of


class Steady(nn.Module):
    """Takes 8 numbers and gives 8."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.body = nn.GRU(4, 4, batch_first=True) if kind == "gru" else nn.Conv2d(2, 2, (2, 1), padding=(1, 0))

    def forward(self, x):
        if self.kind == "gru":
            return self.body(x.view(-1, 2, 4))[0].reshape(-1, 8)
        return self.body(x.view(-1, 2, 2, 2))[:, :, :2].reshape(-1, 8)


class Level(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("level", torch.zeros(8))

    def forward(self, x):
        if self.training:
            self.level.mul_(0.9).add_(0.1 * x.detach().mean(0))
        return x - self.level


def layer(kind: str) -> nn.Module:
    match kind:
        case "linear":
            return nn.Sequential(nn.Linear(8, 8), nn.Tanh())
        case "conv" | "gru":
            return Steady(kind)
        case "norm":
            return nn.BatchNorm1d(8)
        case "dropout":
            return nn.Dropout(0.3)
        case "layer_norm":
            return nn.LayerNorm(8)
        case "weight_norm":
            return P.weight_norm(nn.Linear(8, 8))
        case "spectral_norm":
            return P.spectral_norm(nn.Linear(8, 8))
        case "extra":
            return Extra(8, 8)
        case "odd":
            return nn.Sequential(Odd(), nn.Linear(3, 8))
        case "depth":
            return nn.Sequential(StochasticDepth(), nn.Linear(3, 8))
        case "unused":
            return nn.Sequential(Unused(), nn.Linear(3, 8))
        case "lazy":
            return nn.LazyLinear(8)
        case "script":
            return torch.jit.script(nn.Sequential(nn.Linear(8, 8), Level()))
    raise ValueError(kind)


def model_of(recipe: Recipe) -> nn.Sequential:
    model = nn.Sequential(*map(layer, recipe.layers), nn.Linear(8, 3))
    if "lazy" in recipe.layers:
        model(torch.zeros(2, 8))
    model.to(getattr(torch, recipe.dtype))
    if recipe.format == "channels_last":
        model.to(memory_format=torch.channels_last)
    if recipe.format == "transposed":
        for part in model.modules():
            if type(part) is nn.Linear and not nn.utils.parametrize.is_parametrized(part):
                part.weight = nn.Parameter(part.weight.detach().t().contiguous().t())
    return model


FUSED = ("SGD", "Adam", "AdamW", "Adagrad")
OWN = ("Lamb", "Lookahead", "Counting", "Shared")


def optimizer_of(recipe: Recipe, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    rate: Any = torch.tensor(0.02) if recipe.tensor_rate and recipe.optimizer not in (*OWN, "Adadelta") else 0.02
    kind = recipe.optimizer
    if kind == "Lamb":
        return Lamb(parameters)
    if kind == "Lookahead":
        return LookaheadOptimizer(torch.optim.SGD(parameters, lr=0.05, momentum=0.9))
    if kind == "Counting":
        return Counting(parameters, lr=0.05)
    if kind == "Shared":
        return Shared(parameters)
    how: dict[str, Any] = {
        "foreach": {"foreach": True},
        "fused": {"fused": True},
        "per_tensor": {"foreach": False},
    }.get(recipe.flavour, {})
    if how.get("fused") and kind not in FUSED:
        how = {}
    if how.get("fused") and kind == "SGD" and "unused" in recipe.layers:
        how = {}  # torch's own fails where a parameter's first gradient comes later than others': it wants all momenta, or none
    if how.get("foreach") and recipe.tensor_rate:
        how = {}  # torch wants `capturable` for it, which CPUs have not
    if kind in ("SGD", "RMSprop"):
        how["momentum"] = 0.9
    if kind == "Adafactor":
        how = {k: v for k, v in how.items() if k == "foreach"}
    return getattr(torch.optim, kind)(parameters, lr=rate, **how)


def schedule_of(recipe: Recipe, optimizer: torch.optim.Optimizer) -> Any:
    match recipe.schedule:
        case "StepLR":
            return lr.StepLR(optimizer, 2, 0.5)
        case "OneCycleLR":
            return lr.OneCycleLR(optimizer, 0.05, total_steps=40, cycle_momentum=False)
        case "LambdaLR":
            return lr.LambdaLR(optimizer, lambda n: 1 / (1 + n))
        case "CosineAnnealingLR":
            return lr.CosineAnnealingLR(optimizer, 4)
        case "ReduceLROnPlateau":
            return lr.ReduceLROnPlateau(optimizer, patience=0, factor=0.5)
        case "SequentialLR":
            return lr.SequentialLR(
                optimizer, [lr.LinearLR(optimizer, total_iters=2), lr.ExponentialLR(optimizer, 0.8)], [2]
            )
    return None


def average_of(recipe: Recipe, model: nn.Module) -> Any:
    match recipe.average:
        case "AveragedModel":
            return swa_utils.AveragedModel(model)
        case "ema":
            return swa_utils.AveragedModel(model, multi_avg_fn=swa_utils.get_ema_multi_avg_fn(0.9), use_buffers=True)
        case "shadow":
            return Shadow(model)
    return None


def data_of(recipe: Recipe) -> tuple[Any, Any]:
    """Return the data set, and how to collate it."""
    made = {"points": Points, "drawing": Drawing, "odd": Arrays, "stages": Stages, "growing": Growing}
    if recipe.data in made:
        return made[recipe.data](), None
    if recipe.data == "padded":
        return Lists(), pad
    if recipe.data == "odd_batches":
        return Points(), odd
    return TensorDataset(waves(100, 8), torch.arange(100) % 3), None


# ---- the program


def train(run: surefoot.Run) -> None:
    """The program that `config["recipe"]` describes."""
    recipe = read(run.config["recipe"])
    model = model_of(recipe)
    # most schedulers of torch do not take another group
    adds = recipe.add_group and not recipe.schedule and recipe.optimizer != "Lookahead"
    held = list(model[0].parameters()) if adds else []
    for p in held:
        p.requires_grad_(False)
    optimizer = optimizer_of(recipe, [p for p in model.parameters() if all(p is not h for h in held)])
    schedule, average = schedule_of(recipe, optimizer), average_of(recipe, model)
    others = {k: v for k, v in (("schedule", schedule), ("average", average)) if v is not None}
    run.track(model=model, optimizer=optimizer, **others)
    data, collate = data_of(recipe)
    with cast(recipe, "loop"):
        for step in run.steps(recipe.steps):
            start(recipe, step.number, model, optimizer, held, data)
            for _ in range(recipe.rounds):
                one_round(recipe, step, model, data, collate)
                if not recipe.accumulate:
                    finish_round(recipe, step, model, optimizer)
            if recipe.accumulate:
                finish_round(recipe, step, model, optimizer)
            end(recipe, step, model, schedule, average, data)


def one_round(recipe: Recipe, step: Any, model: nn.Module, data: Any, collate: Any) -> None:
    more = {"accumulate": True} if recipe.accumulate else {}
    with cast(recipe, "round"):
        for x, y in step.batches(data, collate=collate, **more):
            x = x.to(getattr(torch, recipe.dtype))
            with cast(recipe, "inside"):
                out = model(x * (1 + 0.1 * random.random() + 0.1 * np.random.rand()))
                loss = F.cross_entropy(out, y)
            loss.backward()
            if recipe.weigh:
                step.weigh(float((y != 0).sum()) + 0.5)
            step.log(loss=loss)


def finish_round(recipe: Recipe, step: Any, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    if recipe.freeze == "between":
        freeze(recipe, step.number, model)
    if recipe.clip:
        nn.utils.clip_grad_norm_(model.parameters(), 0.3)
    optimizer.step()


def start(recipe: Recipe, number: int, model: nn.Sequential, optimizer: Any, held: list[Any], data: Any) -> None:
    if held and number == recipe.at:
        for p in held:
            p.requires_grad_(True)
        optimizer.add_param_group({"params": held})
    if recipe.freeze == "before":
        freeze(recipe, number, model)
    if recipe.zero:
        optimizer.zero_grad(set_to_none=recipe.zero == "none")
    if recipe.data == "stages":
        data.set_epoch(number // 2)
    if recipe.data == "growing":
        data.length = 40 + 5 * number


def end(recipe: Recipe, step: Any, model: nn.Sequential, schedule: Any, average: Any, data: Any) -> None:
    if recipe.freeze == "after":
        freeze(recipe, step.number, model)
    for part in model:
        if isinstance(part, Extra):
            part.scale = 0.9 * part.scale + 0.1 * step.merged["loss"]
    if recipe.schedule == "ReduceLROnPlateau":
        schedule.step(step.merged["loss"])
    elif schedule is not None:
        schedule.step()
    if isinstance(average, Shadow):
        average.update(model)
    elif average is not None:
        average.update_parameters(model)
    if recipe.evaluate and step.every(2):
        with cast(recipe, "inside"):
            for x, y in step.evaluate(
                TensorDataset(waves(37, 8).to(getattr(torch, recipe.dtype)), torch.arange(37) % 3)
            ):
                step.log(right=(model(x).argmax(1) == y).float().mean())


def freeze(recipe: Recipe, number: int, model: nn.Sequential) -> None:
    """Freeze the last layer's weight, for good or for two steps."""
    frozen = number >= recipe.at and not (recipe.thaw and number >= recipe.at + 2)
    model[-1].weight.requires_grad_(not frozen)


def cast(recipe: Recipe, where: str) -> Any:
    if recipe.autocast != where or recipe.dtype != "float32":
        return contextlib.nullcontext()
    return torch.autocast("cpu", dtype=torch.bfloat16)
