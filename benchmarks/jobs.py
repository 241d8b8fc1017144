"""The train functions that Surefoot's side of the benchmarks runs, as a user would write them."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

import torch.nn.functional as F
from measure import peak_memory_bytes
from torch import nn
from workloads import WORKLOADS, digits, sgd

import surefoot

__all__ = ["steady", "with_sleep"]


def steady(run: surefoot.Run) -> None:
    """Train a workload; each trainer writes its peak memory into the folder `run.config["memory"]` in the last step."""
    workload, num_steps = WORKLOADS[run.config["workload"]], int(run.config["steps"])
    model = workload.model().to(run.device)
    optimizer = workload.optimizer(model)
    dataset = workload.dataset()
    run.track(model=model, optimizer=optimizer)

    for step in run.steps(num_steps):
        for inputs, targets in step.batches(dataset):
            loss = workload.loss(model, inputs, targets)
            loss.backward()
            step.log(loss=loss)
        optimizer.step()
        if step.number + 1 == num_steps:
            (Path(run.config["memory"]) / f"{os.getpid()}.json").write_text(json.dumps(peak_with_helpers()))


def peak_with_helpers() -> int:
    """Peak memory of this process and of the helper processes it has started."""
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    return peak_memory_bytes() + sum(map(peak_memory_bytes, children))


def with_sleep(run: surefoot.Run) -> None:
    """A tiny MLP on digits whose steps are mostly sleep, so that recovery is measured and not the model.

    `after_step_s` is slept after each optimizer step, as the peers' scripts do; `in_sub_task_s` in each sub-task, as
    compute that is lost with a trainer and done again. Each trainer notes in the folder `trace` when it was in this code.
    """
    model = nn.Sequential(nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10))
    optimizer = sgd(model)
    dataset = digits()
    run.track(model=model, optimizer=optimizer)

    with (Path(run.config["trace"]) / f"{os.getpid()}.txt").open("w", buffering=1) as trace:
        for step in run.steps(int(run.config["steps"])):
            for images, labels in step.batches(dataset):
                with noted(trace):
                    time.sleep(run.config["in_sub_task_s"])
                    loss = F.cross_entropy(model(images), labels)
                    loss.backward()
                    step.log(loss=loss)
            with noted(trace):
                optimizer.step()
                time.sleep(run.config["after_step_s"])


@contextmanager
def noted(trace: TextIO) -> Iterator[None]:
    """Write when this began and ended, as unix times."""
    began = time.time()
    yield
    trace.write(f"{began!r} {time.time()!r}\n")
