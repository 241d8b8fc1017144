"""The settings of the process within a run, which are given back after it."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
import torch.utils.deterministic as deterministic

from surefoot_actors.determinism.fingerprint import make_deterministic

__all__ = ["process_settings"]


@contextmanager
def process_settings(threads: int) -> Iterator[None]:
    """Compute deterministically within, and leave the process's settings as they were."""
    before = torch.get_num_threads(), torch.get_deterministic_debug_mode()
    filled, benchmark = deterministic.fill_uninitialized_memory, torch.backends.cudnn.benchmark  # type: ignore[attr-defined]
    workspace = os.environ.get("CUBLAS_WORKSPACE_CONFIG")
    states = (random.getstate(), np.random.get_state(), torch.get_rng_state())
    make_deterministic(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        torch.set_deterministic_debug_mode(before[1])
        deterministic.fill_uninitialized_memory = filled  # type: ignore[attr-defined]
        torch.backends.cudnn.benchmark = benchmark
        if workspace is None:
            os.environ.pop("CUBLAS_WORKSPACE_CONFIG", None)
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])
