"""The workloads that every side of a benchmark runs: the same model, optimizer, data and loss, whoever drives the loop.

digits   an MLP 64-256-256-10 on scikit-learn's digits, batch 64: so small that the price of a step's bookkeeping shows
charlm   examples/charlm's GPT of 10.9 million parameters, batch 16: so large that the price of moving gradients shows
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import Dataset, TensorDataset

__all__ = ["WORKLOADS", "Sample", "Workload", "digits", "sgd"]

_CHARLM = Path(__file__).resolve().parent.parent / "examples" / "charlm"

Sample = tuple[torch.Tensor, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """What is trained. `loss(model, inputs, targets)` is a mean over the batch."""

    batch_size: int
    model: Callable[[], nn.Module]
    optimizer: Callable[[nn.Module], torch.optim.Optimizer]
    dataset: Callable[[], Dataset[Sample]]
    loss: Callable[[nn.Module, torch.Tensor, torch.Tensor], torch.Tensor]
    # steps before the clock starts, and steps that are timed
    warmup: int
    timed: int


def _digits_model() -> nn.Module:
    return nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 10))


def digits() -> TensorDataset:
    from sklearn.datasets import load_digits

    digits = load_digits()
    return TensorDataset(
        torch.tensor(digits.data, dtype=torch.float32) / 16, torch.tensor(digits.target, dtype=torch.int64)
    )


def _digits_loss(model: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(model(images), labels)


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)


def _from_charlm(module: str, name: str) -> Callable[..., object]:
    """Return examples/charlm's function; its modules import each other by bare names, so its folder goes on the path."""
    if str(_CHARLM) not in sys.path:
        sys.path.append(str(_CHARLM))
    return getattr(__import__(module), name)  # type: ignore[no-any-return]


def _charlm_model() -> nn.Module:
    model = _from_charlm("model", "GPT")()
    assert isinstance(model, nn.Module)
    return model


def _charlm() -> Dataset[Sample]:
    dataset = _from_charlm("data", "Text")(_from_charlm("data", "corpus")(), 128)
    assert isinstance(dataset, Dataset)
    return dataset


def _charlm_loss(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(model(x.long()).flatten(0, 1), y.long().flatten())


WORKLOADS = {
    "digits": Workload(
        batch_size=64,
        model=_digits_model,
        optimizer=sgd,
        dataset=digits,
        loss=_digits_loss,
        warmup=100,
        timed=1000,
    ),
    "charlm": Workload(
        batch_size=16,
        model=_charlm_model,
        optimizer=lambda model: torch.optim.AdamW(model.parameters(), lr=3e-4),
        dataset=_charlm,
        loss=_charlm_loss,
        warmup=2,
        timed=8,
    ),
}
