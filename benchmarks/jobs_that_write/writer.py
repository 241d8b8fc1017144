"""A train function that writes so many files of so many bytes, spread over its steps: into `run.output_dir`, or into a folder beside."""

import os
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

import surefoot


def train(run: surefoot.Run) -> None:
    model = nn.Sequential(nn.Linear(64, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    data = torch.utils.data.TensorDataset(torch.randn(1024, 64), torch.arange(1024) % 10)
    run.track(model=model, optimizer=optimizer)
    steps, files = run.config["steps"], run.config["files"]
    rest = Path(run.config["beside"]) if run.config["beside"] else None
    block = os.urandom(run.config["bytes"])
    for step in run.steps(steps):
        for x, y in step.batches(data):
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            step.log(loss=loss)
        optimizer.step()
        if run.elected:
            folder = rest or run.output_dir
            with (folder / "rows.csv").open("a") as file:
                file.write(f"{step.number},{step.merged['loss']}\n")
            if step.number * files // steps != (step.number + 1) * files // steps:
                # no two are alike, as no two plots or weights are
                (folder / f"{step.number}.bin").write_bytes(step.number.to_bytes(8, "little") + block[8:])
