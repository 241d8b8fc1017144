"""What programs in the shape that people publish share."""

import torch
import torch.nn.functional as F
import torch.utils.checkpoint
from kinds import POINTS


def sgd(model, lr=0.1, **how):
    return torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9, **how)


def fit_tracked(run, model, optimizer, data=POINTS):
    for step in run.steps(run.config["steps"]):
        for x, y in step.batches(data):
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            step.log(loss=loss)
        optimizer.step()
