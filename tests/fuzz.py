"""`make fuzz`: the walks through the protocol and the programs made of pieces, side by side, for so many minutes (default 60)."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

TESTS = Path(__file__).parent
SEARCHES = ("protocol", "programs")


def main() -> int:
    minutes = sys.argv[1] if len(sys.argv) > 1 else "60"
    # one core each: what several threads would win, the other search would lose
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    running = {}
    try:
        for name in SEARCHES:
            command = [sys.executable, "-u", str(TESTS / name / "fuzz.py"), "--minutes", minutes]
            running[name] = subprocess.Popen(command, cwd=TESTS.parent, env=env)
        codes = {name: process.wait() for name, process in running.items()}
    finally:
        for process in running.values():
            process.kill()
            process.wait()
    for name, code in codes.items():
        print(f"{name}: {'no finding' if code == 0 else f'findings, or it failed (exit status {code})'}")
    return 1 if any(codes.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
