"""The peers' recovery, by their own scripts: torchrun, Ray Train and torchft, each on the same sleep workload.

The scripts and an environment with the peers installed are not part of this repository: SUREFOOT_PEERS names the folder (default:
../shared/peers beside the repository), SUREFOOT_PEERS_PYTHON the interpreter (default: venv/bin/python in that folder).
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from measure import HERE

__all__ = ["PEERS", "Peer", "Peers", "find"]

# a run of the slowest peer takes a minute
TIMEOUT_S = 240


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """One peer, and how to have its script kill a worker once."""

    name: str
    command: tuple[str, ...]


PEERS = (
    Peer(name="torchft, heartbeat tuned to 1 s", command=("p4_torchft.py", "kill", "--heartbeat-ms", "1000")),
    Peer(name="torchft, as it comes", command=("p4_torchft.py", "kill")),
    Peer(name="torchrun", command=("p2_torchrun.py", "--own-store")),
    Peer(name="Ray Train", command=("p3_raytrain.py", "kill")),
)


class Peers:
    """The scripts, in a scratch copy of their folder: they write beside themselves."""

    def __init__(self, folder: Path, python: Path) -> None:
        self._folder, self._python = folder, python

    def kill_once(self, peer: Peer) -> dict[str, Any] | None:
        """Return what the script measured, or None when it told nothing (torchrun hangs at times)."""
        env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        command = [str(self._python), "bench.py", "--timeout", str(TIMEOUT_S), *peer.command]
        done = subprocess.run(
            command, cwd=self._folder, env=env, capture_output=True, text=True, timeout=TIMEOUT_S + 120, check=False
        )
        lines = [line for line in done.stdout.splitlines() if line.startswith('{"peer"')]
        told: dict[str, Any] = json.loads(lines[-1]) if lines else {}
        return told if told.get("kill_to_new_step_s") is not None else None


@contextmanager
def find(folder: str | None, python: str | None) -> Iterator[Peers]:
    """Yield the peers. Raises FileNotFoundError saying what is missing and how to get it."""
    source = Path(folder or os.environ.get("SUREFOOT_PEERS") or HERE.parent.parent / "shared" / "peers")
    interpreter = Path(python or os.environ.get("SUREFOOT_PEERS_PYTHON") or source / "venv" / "bin" / "python")
    if not (source / "bench.py").exists():
        raise FileNotFoundError(
            f"no scripts of the peers in {source}: name their folder with --peers, or use --no-peers"
        )
    if not interpreter.exists():
        raise FileNotFoundError(
            f"no Python with the peers at {interpreter}: see {source}/README.md, then --peers-python"
        )
    with tempfile.TemporaryDirectory(prefix="sf-peers-") as scratch:
        for script in (*source.glob("*.py"), *source.glob("*.pt")):
            shutil.copyfile(script, Path(scratch) / script.name)
        (Path(scratch) / "runs").mkdir()
        yield Peers(Path(scratch), interpreter.absolute())
