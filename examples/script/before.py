"""A training script as people have it: `python before.py --data data --epochs 5 --lr 0.05`."""

import argparse
import csv
import os
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from tensorboardX import SummaryWriter
from torch import nn
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm


class Points(Dataset):
    def __init__(self, folder, split):
        self.x, self.y = (np.load(Path(folder) / f"{split}_{part}.npy") for part in "xy")

    def __len__(self):
        return len(self.y)

    def __getitem__(self, i):
        return torch.from_numpy(self.x[i]), int(self.y[i])


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", default="data")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--lr", type=float, default=0.05)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--patience", type=int, default=3)
    parser.add_argument("--out", default="out")
    args = parser.parse_args()
    torch.manual_seed(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    out = Path(args.out)
    out.mkdir(exist_ok=True)
    print("reporting to W&B" if os.environ.get("WANDB_API_KEY") else "no W&B key")

    train_set, val_set = Points(args.data, "train"), Points(args.data, "val")
    train_loader = DataLoader(train_set, batch_size=args.batch_size, shuffle=True)
    val_loader = DataLoader(val_set, batch_size=256)
    model = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Dropout(0.1), nn.Linear(32, 4)).to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=args.lr, momentum=0.9)
    writer = SummaryWriter(str(out / "tb"))
    best, bad, number, losses = 0.0, 0, 0, []

    for epoch in range(args.epochs):
        for x, y in tqdm(train_loader, desc=f"epoch {epoch}"):
            loss = F.cross_entropy(model(x.to(device)), y.to(device))
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            writer.add_scalar("loss", loss.item(), number)
            losses.append(loss.item())
            number += 1
        model.eval()
        with torch.no_grad():
            right = sum((model(x.to(device)).argmax(1) == y.to(device)).sum().item() for x, y in val_loader)
        model.train()
        accuracy = right / len(val_set)
        print(f"epoch {epoch}: accuracy {accuracy:.4f}")
        if accuracy > best:
            best, bad = accuracy, 0
            torch.save(model.state_dict(), out / "best.pt")
        else:
            bad += 1
            if bad >= args.patience:
                break

    with (out / "losses.csv").open("w") as file:
        csv.writer(file).writerows(enumerate(losses))
    print(f"best accuracy {best:.4f}")


if __name__ == "__main__":
    main()
