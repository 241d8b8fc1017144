"""Train a small CNN on scikit-learn's handwritten digits, with BatchNorm and Dropout, so that buffers and RNG matter.

Config, all optional: steps (300), optimizer ("adamw" or "sgd"), lr, dropout (0.25), eval_every (50).
Made for batch_size 64 and 8 sub-tasks; any pair that divides will do.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn
from torch.optim.lr_scheduler import LRScheduler, OneCycleLR
from torch.utils.data import TensorDataset

import surefoot

NUM_TEST = 360
MAX_GRAD_NORM = 1.0


class Net(nn.Module):
    """Two convolutions with BatchNorm, two linear layers with Dropout. float32 [n, 1, 8, 8] to logits [n, 10]."""

    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16)
        self.conv2, self.norm2 = nn.Conv2d(16, 32, 3, padding=1), nn.BatchNorm2d(32)
        self.hidden, self.out = nn.Linear(32 * 4 * 4, 64), nn.Linear(64, 10)
        self.dropout = nn.Dropout(dropout)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.norm1(self.conv1(images)))
        x = F.max_pool2d(F.relu(self.norm2(self.conv2(x))), 2)
        x = self.dropout(F.relu(self.hidden(x.flatten(1))))
        logits: torch.Tensor = self.out(x)
        return logits


def load_data() -> tuple[TensorDataset, TensorDataset]:
    """Return the train set (1437 images) and the test set (360), split the same way in every process."""
    digits = load_digits()
    images = torch.tensor(digits.data, dtype=torch.float32).reshape(-1, 1, 8, 8) / 16
    labels = torch.tensor(digits.target, dtype=torch.int64)
    # a generator of its own: the split must not depend on where in the run this trainer joins
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    test, train = order[:NUM_TEST], order[NUM_TEST:]
    return TensorDataset(images[train], labels[train]), TensorDataset(images[test], labels[test])


def build_optimizer(
    model: nn.Module, config: Mapping[str, Any], num_steps: int
) -> tuple[torch.optim.Optimizer, LRScheduler | None]:
    """Return AdamW with a one-cycle schedule, or SGD with momentum at a constant rate. Raises ValueError for others."""
    match config.get("optimizer", "adamw"):
        case "adamw":
            adamw = torch.optim.AdamW(model.parameters(), weight_decay=0.01)
            return adamw, OneCycleLR(adamw, max_lr=config.get("lr", 5e-3), total_steps=num_steps)
        case "sgd":
            return torch.optim.SGD(model.parameters(), lr=config.get("lr", 0.05), momentum=0.9), None
        case other:
            raise ValueError(f'optimizer {other!r} is neither "adamw" nor "sgd"')


def train(run: surefoot.Run) -> None:
    """The train function: `surefoot submit train:train` from this folder."""
    num_steps, eval_every = int(run.config.get("steps", 300)), int(run.config.get("eval_every", 50))
    train_set, test_set = load_data()
    model = Net(float(run.config.get("dropout", 0.25))).to(run.device)
    optimizer, scheduler = build_optimizer(model, run.config, num_steps)
    run.track(model=model, optimizer=optimizer, **({"scheduler": scheduler} if scheduler else {}))

    for step in run.steps(num_steps):
        for images, labels in step.batches(train_set):
            loss = F.cross_entropy(model(images.to(run.device)), labels.to(run.device))
            loss.backward()
            step.log(loss=loss)
        if scheduler:
            nn.utils.clip_grad_norm_(model.parameters(), MAX_GRAD_NORM)
        optimizer.step()
        if scheduler:
            scheduler.step()
        if step.every(eval_every) or step.number + 1 == num_steps:
            for images, labels in step.evaluate(test_set):
                step.log(accuracy=(model(images.to(run.device)).argmax(1) == labels.to(run.device)).float().mean())
            if run.elected:
                print(f"step {step.number}: accuracy {step.merged['accuracy']:.4f}")
                with (run.output_dir / "accuracy.csv").open("a") as file:
                    file.write(f"{step.number},{step.merged['accuracy']}\n")
