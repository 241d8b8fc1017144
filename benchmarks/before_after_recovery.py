"""What a change costs in recovery: this tree beside another one, taking turns.

    git worktree add ../before COMMIT
    python benchmarks/before_after_recovery.py ../before [--rounds 5] [--kills 3]

Each side kills one of two trainers on local processes, under the real supervisor, with a step of 100 ms (benchmarks/kills.py): what is
compared is the time from the kill to the next committed step, less what the train function's own code takes of it. The figure of a round is
the median of its kills; the claim is the median of the rounds, with their range.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parent.parent
CHILD = (
    "import json, sys; from kills import Sleep, on_local_processes; "
    "print(json.dumps([(r.kill_to_step_s, r.in_user_code_s) for r in "
    "on_local_processes(int(sys.argv[1]), Sleep(sub_tasks=2, after_step_s=0.1))]))"
)


def run(tree: Path, kills: int) -> tuple[float, float]:
    """Return milliseconds from the kill to the next step, and those besides user code: the medians of some kills in this tree."""
    path = os.pathsep.join(str(tree / part) for part in ("benchmarks", "api", "actors", "service"))
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(kills)],
        cwd=tree / "benchmarks",
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        check=True,
        text=True,
    )
    found = json.loads(done.stdout.splitlines()[-1])
    return median(total for total, _ in found) * 1000, median(total - user for total, user in found) * 1000


def spread(values: list[float]) -> str:
    return f"{median(values):.0f} ({min(values):.0f} to {max(values):.0f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--kills", type=int, default=3)
    args = parser.parse_args()
    sides = {"before": args.before.resolve(), "after": ROOT}
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in sides}
    for _ in range(args.rounds):
        for name, tree in sides.items():
            found[name].append(run(tree, args.kills))
    for name, figures in found.items():
        print(
            f"{name}: kill to step {spread([f[0] for f in figures])} ms, without user code {spread([f[1] for f in figures])} ms"
        )


if __name__ == "__main__":
    main()
