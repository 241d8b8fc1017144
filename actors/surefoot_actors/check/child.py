"""The process that probes are forked from: imports what is slow once, then forks one process a probe, a few at a time.

It has one thread, so that a fork is safe. It reads the path of a pickled Errand from each line of its standard input, and answers with a
line when that is done. Each probe leaves NAME.json and NAME.log in the request's folder.
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
from surefoot_actors.check.extent import Extent
from surefoot_actors.check.libraries import import_all
from surefoot_actors.check.probe import Probe, perform
from surefoot_actors.cluster.local.template import die_with_parent

__all__ = ["IMPORTED", "ProbeRequest", "main"]

# The file in the request's folder that tells which libraries could be imported, a line each.
IMPORTED = "imported"


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeRequest:
    """What a process is to do."""

    spec: JobSpec
    # how many, or what decides it
    steps: int | Extent
    # the user's code
    folder: str
    out: str
    # known ones that the user's code imports
    libraries: tuple[str, ...]
    probes: tuple[Probe, ...]
    # how many at a time
    num_parallel: int


def main() -> None:
    """Perform one request after another until standard input ends. Argument: the pid of whoever started this process."""
    die_with_parent(int(sys.argv[1]))
    while line := sys.stdin.readline():
        request: ProbeRequest = pickle.loads(Path(line.rstrip("\n")).read_bytes())  # noqa: S301  written by whoever started us
        _perform_all(request)
        os.write(1, b"done\n")


def _perform_all(request: ProbeRequest) -> None:
    (Path(request.out) / IMPORTED).write_text("\n".join(import_all(request.libraries)))
    running: list[int] = []
    for probe in request.probes:
        if len(running) == request.num_parallel:
            os.waitpid(running.pop(0), 0)
        running.append(_fork(probe, request))
    for pid in running:
        os.waitpid(pid, 0)


def _fork(probe: Probe, request: ProbeRequest) -> int:
    """Perform a probe in a process of its own; return its pid."""
    parent = os.getpid()
    pid = os.fork()
    if pid:
        return pid
    try:
        die_with_parent(parent)
        log = os.open(Path(request.out) / f"{probe.name}.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        for number in (1, 2):
            os.dup2(log, number)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.chdir(request.folder)
        _perform(probe, request)
        os._exit(0)
    except BaseException:  # noqa: BLE001  it must not run on as a second parent
        traceback.print_exc()
    finally:
        os._exit(70)


def _perform(probe: Probe, request: ProbeRequest) -> None:
    clock = time.perf_counter
    began = clock()
    seen = perform(probe, request.spec, request.steps, Path(request.folder))
    seen.seconds = clock() - began
    unfinished = Path(request.out) / f"{probe.name}.part"
    unfinished.write_text(seen.to_json())
    unfinished.rename(unfinished.with_suffix(".json"))


if __name__ == "__main__":
    main()
