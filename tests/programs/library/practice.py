"""What programs in the shape that people publish share."""

import torch
import torch.nn.functional as F
import torch.utils.checkpoint
from kinds import POINTS, mlp


def sgd(model, lr=0.1, **how):
    return torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9, **how)


def begun(run, model=None, **tracked):
    """Track a model, the small one where none is given, and its optimizer. Returns both."""
    model = mlp() if model is None else model
    optimizer = sgd(model)
    run.track(model=model, optimizer=optimizer, **tracked)
    return model, optimizer


def inner(model, step, data=POINTS, loss_fn=F.cross_entropy, scale=1.0, **how):
    """Go through an inner loop that does what most do."""
    for x, y in step.batches(data, **how):
        loss = loss_fn(model(x), y) * scale
        loss.backward()
        step.log(loss=loss)


def fit_tracked(run, model, optimizer, data=POINTS):
    for step in run.steps(run.config["steps"]):
        for x, y in step.batches(data):
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            step.log(loss=loss)
        optimizer.step()
