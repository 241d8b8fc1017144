"""Data workers that are killed."""

import os
import signal

import torch
import torch.nn.functional as F

import surefoot


class Deadly:
    """A data worker that comes to sample 5 is killed, as the kernel does when memory is short: once, or ever again."""

    def __init__(self, mark: str) -> None:
        self.mark = mark

    def __len__(self) -> int:
        return 100

    def __getitem__(self, i: int) -> tuple[torch.Tensor, int]:
        if i == 5 and torch.utils.data.get_worker_info() is not None:
            try:
                if self.mark != "always":
                    os.close(os.open(self.mark, os.O_CREAT | os.O_EXCL))
            except FileExistsError:
                pass
            else:
                os.kill(os.getpid(), signal.SIGKILL)
        return torch.sin(torch.arange(12) * (i + 1.0)), i % 3


def train(run: surefoot.Run) -> None:
    model = torch.nn.Linear(12, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    run.track(model=model, optimizer=optimizer)
    data = Deadly(run.config["mark"])
    for step in run.steps(6):
        for x, y in step.batches(data):
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            step.log(loss=loss)
        optimizer.step()
