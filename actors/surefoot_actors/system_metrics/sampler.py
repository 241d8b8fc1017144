"""A sample every ten seconds, of what a trainer has used since the one before: taken by a thread of its watchdog."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from surefoot_actors.system_metrics import counters
from surefoot_actors.system_metrics.counters import Counts
from surefoot_actors.system_metrics.gpu import Gpu, find_gpu
from surefoot_actors.system_metrics.machine import Machine
from surefoot_actors.system_metrics.processes import Used, used_by

__all__ = ["PERIOD_S", "Sampler", "sample_for_ever"]

PERIOD_S = 10.0
# the first one comes early: people look at a job that has just begun
_FIRST_S = 2.0


class Sampler:
    """Takes samples of one trainer's process."""

    def __init__(
        self,
        pid: int,
        read_counts: Callable[[], Counts],
        gpu: Gpu | None = None,
        *,
        proc: Path = Path("/proc"),
        cgroups: Path = Path("/sys/fs/cgroup"),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._pid, self._read_counts, self._gpu, self._proc, self._clock = pid, read_counts, gpu, proc, clock
        self._machine = Machine(pid, proc=proc, cgroups=cgroups)
        self._before = self._look()

    def _look(self) -> tuple[float, Used, Counts]:
        return self._clock(), used_by(self._pid, proc=self._proc), self._read_counts()

    def sample(self) -> dict[str, float]:
        """What was used since the sample before. Raises OSError where the process is gone."""
        before, self._before = self._before, self._look()
        window_s = max(1e-9, self._before[0] - before[0])
        return {
            "window_s": window_s,
            **_of_processes(before[1], self._before[1], window_s),
            **self._of_machine(),
            **(self._gpu.sample() if self._gpu is not None else {}),
            **_of_training(before[2], self._before[2], window_s),
        }

    def _of_machine(self) -> dict[str, float]:
        memory = self._machine.memory()
        limits = (
            {} if memory is None else {"machine_memory_bytes": memory.used, "machine_memory_limit_bytes": memory.limit}
        )
        return {"cpus_limit": self._machine.cpus(), **limits}


def _of_processes(before: Used, now: Used, window_s: float) -> dict[str, float]:
    return {
        # of a child that somebody else has waited for, the seconds are gone
        "cpus": max(0.0, now.cpu_s - before.cpu_s) / window_s,
        "memory_bytes": now.memory_bytes,
        "received_bytes_per_s": max(0, now.received_bytes - before.received_bytes) / window_s,
        "sent_bytes_per_s": max(0, now.sent_bytes - before.sent_bytes) / window_s,
    }


def _of_training(before: Counts, now: Counts, window_s: float) -> dict[str, float]:
    """Nothing where no step was done: a mean over none is no number."""
    steps = now.steps - before.steps
    if steps <= 0:
        return {}
    return {
        "samples_per_s": (now.samples - before.samples) / window_s,
        "exchange_s": max(0.0, now.exchange_s - before.exchange_s) / steps,
        "wait_s": max(0.0, now.wait_s - before.wait_s) / steps,
    }


def sample_for_ever(pid: int, memory_fd: int, at: int, *, has_gpu: bool, tell: Callable[[str], None]) -> None:
    """Tell a sample every PERIOD_S, as JSON without spaces, until the process is gone. Its counts are in the memory, from `at` on."""
    pause = threading.Event()
    try:
        gpu = find_gpu(os.environ) if has_gpu else None
        sampler = Sampler(pid, lambda: counters.read(memory_fd, at), gpu)
        wait_s = _FIRST_S
        while not pause.wait(wait_s):
            rounded = {name: float(f"{value:.6g}") for name, value in sampler.sample().items()}
            tell(json.dumps(rounded, separators=(",", ":")))
            wait_s = PERIOD_S
    except OSError as error:
        if os.path.exists(f"/proc/{pid}"):
            sys.stderr.write(f"surefoot: no system metrics of this trainer: {error}\n")
