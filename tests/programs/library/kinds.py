"""What the programs share: how one is listed, small data sets, and the loop that most of them have."""

from __future__ import annotations

import os
import time
import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch.utils.data import TensorDataset

import surefoot

# Hidden from what Surefoot finds in reach of a program: no program of a user's is beside four hundred others.
_hidden = types.ModuleType("hidden")
_hidden.programs = {}


def __getattr__(name: str) -> Any:
    if name == "CATALOGUE":
        return _hidden.programs
    raise AttributeError(name)


@dataclass(frozen=True, kw_only=True)
class Program:
    """One small program, and how it is to be run."""

    train: Callable[[surefoot.Run], None]
    steps: int = 6
    batch_size: int = 16
    sub_tasks: int = 4
    data_workers: int = 0
    config: Mapping[str, Any] = field(default_factory=dict)
    # a program that breaks the contract: what the error says
    refused: str = ""
    # how much the error is late, at most
    refused_by: int = 1
    # whether one trainer alone is told too: what only differs from trainer to trainer is seen where there are several
    refused_alone: bool = True
    # whether the suite runs it: others are run by hand, and on real trainers
    in_suite: bool = True

    @property
    def name(self) -> str:
        return self.train.__name__

    @property
    def entrypoint(self) -> str:
        return f"{self.train.__module__}:{self.train.__name__}"


def program(**how: Any) -> Callable[[Callable[[surefoot.Run], None]], Callable[[surefoot.Run], None]]:
    """List a train function as a program."""

    def listed(train: Callable[[surefoot.Run], None]) -> Callable[[surefoot.Run], None]:
        assert train.__name__ not in _hidden.programs, train.__name__
        _hidden.programs[train.__name__] = Program(train=train, **how)
        return train

    return listed


def waves(*shape: int) -> torch.Tensor:
    """Return numbers that need no random state."""
    return torch.sin(torch.arange(float(torch.Size(shape).numel())) * 1.7).view(shape)


POINTS = TensorDataset(waves(100, 8), torch.arange(100) % 3)
IMAGES = TensorDataset(waves(50, 3, 8, 8), torch.arange(50) % 3)
TOKENS = TensorDataset((torch.arange(600) * 7 % 23).view(100, 6), torch.arange(100) % 3)


class Points(torch.utils.data.Dataset):
    """As POINTS, one sample at a time, in the user's own code."""

    def __len__(self):
        return 100

    def __getitem__(self, i):
        return torch.sin(torch.arange(8) * (i + 1.0)), i % 3


def mlp(width=8):
    return torch.nn.Sequential(torch.nn.Linear(8, width), torch.nn.ReLU(), torch.nn.Linear(width, 3))


def nothing(step):
    """Do nothing."""


def wait(run, step):
    """Wait at a step for a file that the test makes, if it says so."""
    number, path = run.config.get("gate", (None, ""))
    while step.number == number and not os.path.exists(path):
        time.sleep(0.005)


def fit(run, model, optimizer, *, data=POINTS, loss=F.cross_entropy, before=nothing, after=nothing, **tracked):
    """The plain loop."""
    run.track(model=model, optimizer=optimizer, **tracked)
    for step in run.steps(run.config["steps"]):
        wait(run, step)
        before(step)
        for x, y in step.batches(data):
            value = loss(model(x), y)
            value.backward()
            step.log(loss=value)
        optimizer.step()
        after(step)
