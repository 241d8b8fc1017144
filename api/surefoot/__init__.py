"""Surefoot: elastic PyTorch training on Ray. Workers come and go; the result is the same, bit for bit."""

from __future__ import annotations

import os
from collections.abc import Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any

from surefoot._given import a_function, a_mapping, a_place, a_text, a_whole_number
from surefoot.contract import Run, Step, TrainFunction
from surefoot.errors import SurefootError
from surefoot.local import LocalResult
from surefoot.spec import JobSpec, JobState, Resources

if TYPE_CHECKING:
    import torch

    from surefoot.aclient import AsyncClient, AsyncJob
    from surefoot.client import Client, Job

__all__ = [
    "AsyncClient",
    "AsyncJob",
    "Client",
    "Job",
    "JobSpec",
    "JobState",
    "LocalResult",
    "Resources",
    "Run",
    "Step",
    "SurefootError",
    "TrainFunction",
    "run_local",
]

# Loaded when first asked for: trainers import this package beside the user's code, and need no HTTP client (nor should a user's own
# `httpx.py` be imported in its place).
_LAZY = {"AsyncClient": "aclient", "AsyncJob": "aclient", "Client": "client", "Job": "client"}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_LAZY[name]}"), name)


def run_local(
    train: TrainFunction,
    *,
    batch_size: int,
    config: Mapping[str, Any] | None = None,
    sub_tasks: int = 8,
    seed: int = 0,
    data_workers: int = 0,
    device: str | torch.device = "cpu",
    threads: int = 1,
    checkpoint: str | os.PathLike[str] | None = None,
    checkpoint_every: int | None = None,
    restore: str | os.PathLike[str] | None = None,
    keep_state: bool = False,
    target: str | None = None,
    output_dir: str | os.PathLike[str] | None = None,
    data: Mapping[str, Any] | None = None,
) -> LocalResult:
    """Run `train` in this process, as one trainer without Ray: the same bits as any job with the same options.

    `checkpoint`: a folder or URL where the state is saved at the end, and every `checkpoint_every` steps; `restore`: a checkpoint, or a
    place of some, to begin from; `data`: paths and URLs by name, which `run.data` gives; `keep_state`: return the whole tracked state
    too; `target`, such as "accuracy>=0.97", ends training at the first step whose merged values meet it; `output_dir`: the folder that
    the code finds as `run.output_dir`, without which it is a new temporary one (`output_dir` of the result).

    Returns the ledger (`rows`), the `digest` of the final tracked state, and the tracked modules' `state_dict`s (`model`, `models`).
    Raises MissingExtraError where torch is not installed (`pip install 'surefoot[ray]'`), and whatever `train` raises.
    """
    from surefoot.plugins import load

    a_function(train, "train")

    bounds = {
        "batch_size": (1, 2**31),
        "sub_tasks": (1, 4096),
        "seed": (0, 2**63 - 1),
        "data_workers": (0, 256),
        "threads": (1, 1024),
    }
    given = {
        "batch_size": batch_size,
        "sub_tasks": sub_tasks,
        "seed": seed,
        "data_workers": data_workers,
        "threads": threads,
    }
    for name, value in given.items():
        a_whole_number(value, name, *bounds[name])
    result: LocalResult = load("run_local")(
        train,
        batch_size=batch_size,
        config=a_mapping(config, "config", '{"lr": 0.1}'),
        sub_tasks=sub_tasks,
        seed=seed,
        data_workers=data_workers,
        device=device,
        threads=threads,
        checkpoint=None if checkpoint is None else a_place(checkpoint, "checkpoint"),
        checkpoint_every=None if checkpoint_every is None else a_whole_number(checkpoint_every, "checkpoint_every", 1),
        restore=None if restore is None else a_place(restore, "restore"),
        keep_state=keep_state,
        target=None if target is None else a_text(target, "target", "accuracy>=0.97"),
        output_dir=None if output_dir is None else a_place(output_dir, "output_dir"),
        data=a_mapping(data, "data", '{"train": "data"}'),
    )
    return result
