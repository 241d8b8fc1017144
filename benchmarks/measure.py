"""What every benchmark needs: a run's figures, its memory and bytes, spreads over rounds, and results as JSON and Markdown."""

from __future__ import annotations

import json
import os
import platform
import socket
import statistics
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

__all__ = ["RESULTS", "Figures", "Spread", "free_port", "machine", "peak_memory_bytes", "run_child", "save", "table"]

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results"


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """What one measured run tells its parent, as one JSON line."""

    # seconds of any clock: the timed part's begin, then the end of each of its steps
    step_ends: list[float]
    # peak resident memory of each process that trained, its helpers included
    peak_bytes: list[int] = field(default_factory=list)
    # over the loopback device, from start to end; 0 when not counted
    sent_bytes: int = 0

    @property
    def steps_per_s(self) -> float:
        """Over the timed part."""
        return (len(self.step_ends) - 1) / (self.step_ends[-1] - self.step_ends[0])

    def tell(self) -> None:
        print("FIGURES " + json.dumps(asdict(self)), flush=True)


def run_child(*command: str | int, timeout_s: float = 600, own_network: bool = False) -> Figures:
    """Run a script of this folder in a process of its own and return its figures.

    `own_network`: in a network namespace of its own, so that the bytes sent can be counted. Raises RuntimeError with the child's
    last lines when it fails.
    """
    argv = [sys.executable, *map(str, command)]
    if own_network:
        argv = ["unshare", "--net", "--map-root-user", sys.executable, "alone.py", *argv[1:]]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    done = subprocess.run(argv, env=env, cwd=HERE, capture_output=True, text=True, timeout=timeout_s, check=False)
    told = dict(line.split(" ", 1) for line in done.stdout.splitlines() if line.startswith(("FIGURES ", "LOOPBACK ")))
    if done.returncode or "FIGURES" not in told:
        tail = "\n".join((done.stdout + done.stderr).splitlines()[-30:])
        raise RuntimeError(f"{' '.join(argv)} ended with {done.returncode}:\n{tail}")
    return Figures(**{**json.loads(told["FIGURES"]), "sent_bytes": int(told.get("LOOPBACK", 0))})


def peak_memory_bytes(pid: int | str = "self") -> int:
    """Return the most memory that the process has had resident so far (VmHWM)."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


@dataclass(frozen=True, slots=True)
class Spread:
    """A figure over rounds."""

    low: float
    median: float
    high: float
    n: int

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread:
        values = list(values)
        return cls(min(values), statistics.median(values), max(values), len(values))

    def text(self, digits: int = 2) -> str:
        return f"{self.median:.{digits}f} ({self.low:.{digits}f} to {self.high:.{digits}f})"


def machine() -> str:
    """Say what the figures were measured on, without naming the machine."""
    memory_gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{os.cpu_count()} cores, {memory_gib:.0f} GiB, {platform.machine()}, Python {platform.python_version()}"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Write a Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def save(name: str, markdown: str, figures: dict[str, Any]) -> None:
    """Write results/NAME.md and results/NAME.json, dated."""
    when = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.md").write_text(f"{markdown.rstrip()}\n\nMeasured {when} on {machine()}.\n")
    (RESULTS / f"{name}.json").write_text(json.dumps({"when": when, "machine": machine(), **figures}, indent=1) + "\n")
    print(f"wrote {RESULTS / name}.md and .json")
