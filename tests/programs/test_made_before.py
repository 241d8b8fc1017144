"""What is drawn before the loop from something that differs from process to process is, for all of a run, what its first trainer drew."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch.utils.data import random_split

import surefoot
from surefoot.local import LocalResult
from surefoot_actors.checkpoint.store import CheckpointStore
from surefoot_actors.local_run.run_local import run_local

from .joiner import Loss, Story, act
from .runner import difference

SETTINGS = {"batch_size": 16, "sub_tasks": 4}


class Made:
    """How often a trainer was built in this run: it stands for the system's randomness, and for a cache that was there or not."""

    times = 0


def train(run: surefoot.Run) -> None:
    Made.times += 1
    drawn = np.random.default_rng(Made.times)
    mask, generator = torch.from_numpy(drawn.random(8).astype(np.float32)), np.random.default_rng(Made.times)
    torch.randn(Made.times)
    data = torch.utils.data.TensorDataset(torch.sin(torch.arange(800.0)).view(100, 8), torch.arange(100) % 3)
    part, _ = random_split(data, [80, 20])
    model = torch.nn.Linear(8, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    run.track(model=model, optimizer=optimizer)
    for step in run.steps(6):
        scale = 1 + generator.random()
        for x, y in step.batches(part):
            loss = F.cross_entropy(model(x * mask), y) * scale
            loss.backward()
            step.log(loss=loss)
        optimizer.step()


def anew(story: Story) -> LocalResult:
    Made.times = 0
    return act(train, story, **SETTINGS)


def test_it_is_the_first_trainers() -> None:
    alone = anew(Story())
    for story in (Story(trainers=3), Story(joins=(1, 3), losses=(Loss(step=0, member=0), Loss(step=2, member=0)))):
        assert not difference(alone, anew(story))


def test_it_is_that_of_the_run_that_is_restored(tmp_path: Path) -> None:
    Made.times = 0
    whole = run_local(train, checkpoint=str(tmp_path), checkpoint_every=3, **SETTINGS)
    (url,) = [c.url for c in CheckpointStore(str(tmp_path)).found() if c.step == 3]
    assert not difference(whole, run_local(train, restore=url, **SETTINGS))
