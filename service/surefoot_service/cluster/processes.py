"""Processes of a Ray head, found by a mark in their environment: all of them, wherever they were re-parented to."""

from __future__ import annotations

from contextlib import suppress

import psutil

__all__ = ["MARK", "end_marked", "kill_marked", "marked"]

# Inherited by whatever a head starts, and by whatever that starts: workers, drivers, trainers, their helpers.
MARK = "SUREFOOT_HEAD"

# how often the sweep is repeated: a dying process may have started another just before
_SWEEPS = 20
_SWEEP_S = 1.0
# how long a process is given to end before it is told to
_BY_ITSELF_S = 1.0


def marked(mark: str) -> list[psutil.Process]:
    """Return the live processes that carry the mark."""
    found: list[psutil.Process] = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK) == mark and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess, OSError):
            continue  # it has ended meanwhile, or is somebody else's
    return found


def end_marked(mark: str, timeout_s: float) -> None:
    """See the processes that carry the mark now to their ends: those of themselves, and those of whoever is told to end.

    A trainer's collector goes on for minutes with lines that nobody will take any more. Returns once they have ended, or the time is over.
    """
    _, left = psutil.wait_procs(marked(mark), timeout=min(_BY_ITSELF_S, timeout_s))
    for process in left:
        with suppress(psutil.NoSuchProcess):
            process.terminate()
    psutil.wait_procs(left, timeout=max(0.0, timeout_s - _BY_ITSELF_S))


def kill_marked(mark: str) -> list[int]:
    """Kill every process that carries the mark, and wait for their ends. Return the pids of those that would not go."""
    for _ in range(_SWEEPS):
        found = marked(mark)
        if not found:
            return []
        for process in found:
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue
        psutil.wait_procs(found, timeout=_SWEEP_S)
    return [p.pid for p in marked(mark)]
