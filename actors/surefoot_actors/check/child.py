"""The process that probes are forked from: imports what is slow once, then forks one process a probe, a few at a time.

Argument: a file with the pickled Errand. Each probe leaves NAME.json and NAME.log beside it.
"""

from __future__ import annotations

import os
import pickle
import sys
import time
import traceback
from dataclasses import dataclass
from pathlib import Path

from surefoot.spec import JobSpec
from surefoot_actors.check.libraries import import_all, libraries
from surefoot_actors.check.probe import Probe, perform
from surefoot_actors.local_template import die_with_parent

__all__ = ["IMPORTED", "Errand", "main"]

# The file that tells which libraries could be imported, a line each.
IMPORTED = "imported"


@dataclass(frozen=True, slots=True, kw_only=True)
class Errand:
    """What a process is to do: probes, the first alone, since the others may need what it leaves."""

    spec: JobSpec
    steps: int
    folder: str
    probes: tuple[Probe, ...]
    # how many at a time
    abreast: int
    parent: int


def main() -> None:
    """Run the errand's probes; stop after the first if that failed."""
    file = Path(sys.argv[1])
    errand: Errand = pickle.loads(file.read_bytes())  # noqa: S301  written by the process that started us
    die_with_parent(errand.parent)
    imported = import_all(libraries(Path(errand.folder), errand.spec.entrypoint))
    (file.parent / IMPORTED).write_text("\n".join(imported))
    os.chdir(errand.folder)
    first, *rest = errand.probes
    _await(_fork(first, errand, file.parent))
    if not (file.parent / f"{first.name}.json").exists():
        return
    running: list[int] = []
    for probe in rest:
        if len(running) == errand.abreast:
            _await(running.pop(0))
        running.append(_fork(probe, errand, file.parent))
    for pid in running:
        _await(pid)


def _await(pid: int) -> None:
    os.waitpid(pid, 0)


def _fork(probe: Probe, errand: Errand, out: Path) -> int:
    """Perform a probe in a process of its own; return its pid."""
    parent = os.getpid()
    pid = os.fork()
    if pid:
        return pid
    try:
        die_with_parent(parent)
        log = os.open(out / f"{probe.name}.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        os.dup2(log, 1)
        os.dup2(log, 2)
        _perform(probe, errand, out)
        os._exit(0)
    except BaseException:  # noqa: BLE001  it must not run on as a second parent
        traceback.print_exc()
    finally:
        os._exit(70)


def _perform(probe: Probe, errand: Errand, out: Path) -> None:
    clock = time.perf_counter
    began = clock()
    seen = perform(probe, errand.spec, errand.steps, Path(errand.folder))
    seen.seconds = clock() - began
    unfinished = out / f"{probe.name}.part"
    unfinished.write_text(seen.to_json())
    unfinished.rename(out / f"{probe.name}.json")


if __name__ == "__main__":
    main()
