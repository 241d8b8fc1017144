"""Nodes of graphs that other threads make have numbers of their own: they are not taken for nodes of other sub-tasks."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import TensorDataset

import surefoot
from surefoot.errors import ContractError
from surefoot_actors.local_run.run_local import run_local

DATA = TensorDataset(torch.sin(torch.arange(320.0)).view(40, 8), torch.arange(40) % 3)
Loss = Callable[[ThreadPoolExecutor, nn.Module, torch.Tensor, torch.Tensor], torch.Tensor]


def towers(pool: ThreadPoolExecutor, model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Two halves of a model, each computed by another thread; this one makes more nodes than that does."""
    out = sum(pool.map(lambda part: part(x), model.children()))
    for _ in range(10):
        out = out * 0.99
    return F.cross_entropy(out, y)


def threads_of_its_own(_: ThreadPoolExecutor, model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    with ThreadPoolExecutor(2) as pool:
        return towers(pool, model, x, y)


def penalty(pool: ThreadPoolExecutor, model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """A gradient's graph is made by another thread: a GPU's, where the model is on one."""
    x = x.clone().requires_grad_()
    out = sum(part(x) for part in model.children())
    (gradient,) = pool.submit(torch.autograd.grad, out.pow(2).sum(), x, create_graph=True).result()
    return F.cross_entropy(out, y) + 0.1 * gradient.pow(2).mean()


def summed_up(loss: Loss) -> Loss:
    """Make a loss that goes on from batch to batch."""
    before = []

    def with_those_before(pool: ThreadPoolExecutor, model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        before.append(loss(pool, model, x, y))
        return torch.stack(before[-2:]).sum() if len(before) > 2 else before[-1].detach().requires_grad_()

    return with_those_before


def trained(loss: Loss) -> None:
    """Train on a thread whose own count begins at 0 too."""

    def train(run: surefoot.Run) -> None:
        model = nn.ModuleList([nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 3)), nn.Linear(8, 3)])
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        run.track(model=model, optimizer=optimizer)
        with ThreadPoolExecutor(1) as pool:
            for step in run.steps(4):
                for x, y in step.batches(DATA):
                    loss(pool, model, x, y).backward()
                optimizer.step()

    with ThreadPoolExecutor(1) as pool:
        pool.submit(run_local, train, batch_size=16, sub_tasks=4).result()


@pytest.mark.parametrize("loss", [towers, threads_of_its_own, penalty])
def test_what_other_threads_make_is_no_other_sub_tasks(loss: Loss) -> None:
    trained(loss)


def test_losses_of_other_sub_tasks_are_refused() -> None:
    def alone(_: ThreadPoolExecutor, model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(sum(part(x) for part in model.children()), y)

    trained(alone)
    with pytest.raises(ContractError, match="in another sub-task"):
        trained(summed_up(alone))
