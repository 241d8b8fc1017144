"""Surefoot: elastic PyTorch training on Ray. Workers come and go; the result is the same, bit for bit."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from surefoot.contract import Run, Step, TrainFunction
from surefoot.errors import SurefootError
from surefoot.spec import JobSpec, JobState, Resources

if TYPE_CHECKING:
    from surefoot.aclient import AsyncClient, AsyncJob
    from surefoot.client import Client, Job

__all__ = [
    "AsyncClient",
    "AsyncJob",
    "Client",
    "Job",
    "JobSpec",
    "JobState",
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


def run_local(train: TrainFunction, **options: Any) -> Any:
    """Run `train` in this process, as one trainer without Ray: the same bits as any job with the same options.

    Options: config (mapping), batch_size, sub_tasks (8), seed (0), data_workers (0), device ("cpu"), threads (1); checkpoint, a folder or
    URL where the state is saved at the end and every checkpoint_every steps; restore, a checkpoint or a place of some to begin from;
    keep_state.

    Returns a `surefoot_actors.local_run.run_local.LocalResult`: `rows` (ledger) and `digest` (of the final tracked state, hex).
    Raises MissingExtraError where torch is not installed (`pip install 'surefoot[ray]'`), and whatever `train` raises.
    """
    from surefoot.plugins import load

    return load("run_local")(train, **options)
