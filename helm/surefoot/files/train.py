"""What `helm test` trains: a few numbers, slowly enough that a trainer can be killed meanwhile."""

import time

import torch

import surefoot


def train(run: surefoot.Run) -> None:
    torch.manual_seed(0)
    model = torch.nn.Linear(4, 1).to(run.device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    run.track(model=model, optimizer=optimizer)
    features = torch.randn(64, 4)
    data = torch.utils.data.TensorDataset(features, features.sum(1, keepdim=True))
    for step in run.steps(run.config["steps"]):
        for x, y in step.batches(data):
            loss = ((model(x.to(run.device)) - y.to(run.device)) ** 2).mean()
            loss.backward()
            step.log(loss=loss)
            time.sleep(0.05)
        optimizer.step()
