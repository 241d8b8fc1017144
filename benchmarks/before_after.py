"""What a change costs in steady state: this tree's engine beside another tree's, taking turns.

    git worktree add ../before COMMIT
    python benchmarks/before_after.py ../before [--rounds 7] [--workloads digits mlp charlm tensors]

Each side runs by run_local, in a process of its own, on one thread; a round is one process of each. The figure is the median step
of a process (the rows' own seconds, after a warm-up); the claim is the median of the ratios of the rounds, with their range.

digits   examples/digits, a CNN       mlp      64-256-256-10, batch 64, 8 sub-tasks: a step of a few milliseconds
charlm   examples/charlm, a small one tensors  1,000 parameters of 64 numbers, AdamW
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
WORKLOADS = ("digits", "mlp", "charlm", "tensors")


def child(workload: str, examples: Path) -> None:
    """Train one workload, with this folder's examples, and print the median seconds of a step."""
    import torch
    import torch.nn.functional as F
    from torch import nn

    import surefoot

    def mlp(run: surefoot.Run) -> None:
        model = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 10))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
        data = torch.utils.data.TensorDataset(torch.randn(1797, 64), torch.arange(1797) % 10)
        run.track(model=model, optimizer=optimizer)
        for step in run.steps(500):
            for x, y in step.batches(data):
                loss = F.cross_entropy(model(x), y)
                loss.backward()
                step.log(loss=loss)
            optimizer.step()

    def tensors(run: surefoot.Run) -> None:
        model = nn.ParameterList([nn.Parameter(torch.randn(64)) for _ in range(1000)])
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
        data = torch.utils.data.TensorDataset(torch.randn(512, 64))
        run.track(model=model, optimizer=optimizer)
        for step in run.steps(60):
            for (x,) in step.batches(data):
                loss = (torch.stack(list(model)) * x.mean(0)).sin().mean()
                loss.backward()
                step.log(loss=loss)
            optimizer.step()

    def example(name: str) -> Callable[[surefoot.Run], None]:
        sys.path.insert(0, str(examples / name))
        return __import__("train").train  # type: ignore[no-any-return]

    jobs: dict[str, Callable[[], dict[str, Any]]] = {
        "digits": lambda: {"train": example("digits"), "batch_size": 64, "config": {"steps": 150}},
        "mlp": lambda: {"train": mlp, "batch_size": 64},
        "charlm": lambda: {
            "train": example("charlm"),
            "batch_size": 16,
            "config": {
                "steps": 60,
                "width": 96,
                "heads": 4,
                "layers": 3,
                "context": 64,
                "text_bytes": 500_000,
                "eval_every": 1000,
            },
        },
        "tensors": lambda: {"train": tensors, "batch_size": 16},
    }
    job = jobs[workload]()
    rows = run_local()(job.pop("train"), **job).rows
    seconds = sorted(row.circumstances.seconds for row in rows[len(rows) // 4 :])
    print(json.dumps(seconds[len(seconds) // 4]))


def run_local() -> Callable[..., Any]:
    """Return the tree's run_local from where the tree has it: what is installed knows the other tree's places."""
    plugins = tomllib.loads(Path("pyproject.toml").read_text())["project"]["entry-points"]["surefoot.plugins"]
    module, _, name = plugins["run_local"].partition(":")
    found: Callable[..., Any] = getattr(importlib.import_module(module), name)
    return found


def measure(tree: Path, workload: str, examples: Path) -> float:
    """Return the median seconds of a step with a tree's code."""
    path = os.pathsep.join(str(tree / part) for part in ("api", "actors", "service"))
    command = [sys.executable, __file__, "--child", workload, "--examples", str(examples)]
    env = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "PYTHONHASHSEED": "0"}
    out = subprocess.run(command, env=env, capture_output=True, text=True, check=True, cwd=tree).stdout
    return float(json.loads(out.splitlines()[-1]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", type=Path, nargs="?")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--workloads", nargs="+", choices=WORKLOADS, default=WORKLOADS)
    parser.add_argument("--child", choices=WORKLOADS)
    parser.add_argument("--examples", type=Path)
    arguments = parser.parse_args()
    if arguments.child:
        child(arguments.child, arguments.examples)
        return
    before = arguments.before.resolve()
    examples = before / "examples"  # this tree's may use what that one does not have
    for workload in arguments.workloads:
        pairs = []
        for number in range(arguments.rounds):
            order = (before, ROOT) if number % 2 else (ROOT, before)
            seconds = {tree: measure(tree, workload, examples) for tree in order}
            pairs.append((seconds[before], seconds[ROOT]))
        ratios = sorted(after / earlier for earlier, after in pairs)
        earlier, after = (median(side) * 1e3 for side in zip(*pairs, strict=True))
        print(
            f"{workload:8} {earlier:8.3f} ms -> {after:8.3f} ms a step, ratio {median(ratios):.3f} "
            f"({ratios[0]:.3f} to {ratios[-1]:.3f}, {len(ratios)} rounds)",
            flush=True,
        )


if __name__ == "__main__":
    main()
