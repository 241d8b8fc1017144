"""`make fuzz`: protocol walks, programs made of pieces and requests to the control plane, side by side, for so many minutes (60)."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

TESTS = Path(__file__).parent
SEARCHES = {"protocol": "protocol/fuzz.py", "programs": "programs/fuzz.py", "requests": "service/fire.py"}


def main() -> int:
    minutes = sys.argv[1] if len(sys.argv) > 1 else "60"
    # one core each: what several threads would win, the other searches would lose
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    running = {}
    try:
        for name, file in SEARCHES.items():
            command = [sys.executable, "-u", str(TESTS / file), "--minutes", minutes]
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
