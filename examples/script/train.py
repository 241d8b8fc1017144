"""The script `before.py` as a train function: `surefoot submit job.yaml`."""

import csv
import os
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from tensorboardX import SummaryWriter
from torch import nn
from torch.utils.data import Dataset

import surefoot


class Points(Dataset):
    def __init__(self, folder, split):
        self.x, self.y = (np.load(Path(folder) / f"{split}_{part}.npy") for part in "xy")

    def __len__(self):
        return len(self.y)

    def __getitem__(self, i):
        return torch.from_numpy(self.x[i]), int(self.y[i])


def train(run: surefoot.Run) -> None:
    args, device, out = run.config, run.device, run.output_dir
    print("reporting to W&B" if os.environ.get("WANDB_API_KEY") else "no W&B key")

    train_set, val_set = Points(run.data["points"], "train"), Points(run.data["points"], "val")
    model = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Dropout(0.1), nn.Linear(32, 4)).to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=args.lr, momentum=0.9)
    writer = SummaryWriter(str(out / "tb"))
    early = {"best": 0.0, "bad": 0}
    run.track(model=model, optimizer=optimizer, early=early)

    for step in run.steps(epochs=args.epochs):
        for x, y in step.batches(train_set):
            loss = F.cross_entropy(model(x.to(device)), y.to(device))
            loss.backward()
            step.log(loss=loss)
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if run.elected:
            writer.add_scalar("loss", step.merged["loss"], step.number)
            with (out / "losses.csv").open("a") as file:
                csv.writer(file).writerow([step.number, step.merged["loss"]])
        if not step.ends_epoch:
            continue
        model.eval()
        for x, y in step.evaluate(val_set):
            step.log(accuracy=(model(x.to(device)).argmax(1) == y.to(device)).float().mean())
        model.train()
        accuracy = step.merged["accuracy"]
        if run.elected:
            print(f"epoch {step.epoch}: accuracy {accuracy:.4f}")
        if accuracy > early["best"]:
            early["best"], early["bad"] = accuracy, 0
            if run.elected:
                writer.flush()
                torch.save(model.state_dict(), out / "best.pt")
        else:
            early["bad"] += 1
            if early["bad"] >= args.patience:
                break

    print(f"best accuracy {early['best']:.4f}")
