"""Train a LightningModule on scikit-learn's digits. Nothing is downloaded.

Config, all optional: epochs (5), lr (1e-2). Made for `surefoot submit train:train --batch-size 64 --sub-tasks 4`.
"""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import TensorDataset

import surefoot
from surefoot.integrations import lightning

NUM_TEST = 297


class Digits(pl.LightningModule):  # type: ignore[misc]
    def __init__(self, lr: float) -> None:
        super().__init__()
        self.lr = lr
        self.body = nn.Sequential(nn.Linear(64, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Dropout(0.1), nn.Linear(64, 10))

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        images, labels = batch
        loss = F.cross_entropy(self.body(images), labels)
        self.log("loss", loss, prog_bar=True)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        images, labels = batch
        self.log("accuracy", (self.body(images).argmax(1) == labels).float().mean())

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.parameters(), lr=self.lr)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.trainer.estimated_stepping_batches)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def train(run: surefoot.Run) -> None:
    images, labels = load_digits(return_X_y=True)
    data = torch.from_numpy(images).float() / 16, torch.from_numpy(labels)
    train_set, test_set = (TensorDataset(*(t[part] for t in data)) for part in (slice(NUM_TEST, None), slice(NUM_TEST)))
    module = Digits(float(run.config.get("lr", 1e-2)))
    # in place of pl.Trainer(max_epochs=..., gradient_clip_val=1.0).fit(module, ...)
    lightning.fit(run, module, train_set, test_set, max_epochs=int(run.config.get("epochs", 5)), gradient_clip_val=1.0)
