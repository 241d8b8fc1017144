"""Training code whose tracked state has one tensor in several places, for tests of joins after joins."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from surefoot import Run


class Points(torch.utils.data.Dataset[tuple[torch.Tensor, int]]):
    def __len__(self) -> int:
        return 64

    def __getitem__(self, i: int) -> tuple[torch.Tensor, int]:
        return torch.sin(torch.arange(8) * (i + 1.0)), i % 3


def tensor_rate(run: Run) -> None:
    model = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 3))
    optimizer = torch.optim.Adam(model.parameters(), lr=torch.tensor(0.02))
    plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=1, factor=0.5, cooldown=1)
    run.track(model=model, optimizer=optimizer, plateau=plateau)
    for step in run.steps(run.config["steps"]):
        for x, y in step.batches(Points()):
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            step.log(loss=loss)
        optimizer.step()
        plateau.step(step.merged["loss"])
