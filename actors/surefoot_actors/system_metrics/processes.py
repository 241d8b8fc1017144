"""What a process and those that it started use: CPU time, memory, and what goes over its network."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

__all__ = ["Used", "used_by"]

_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")


class Used(NamedTuple):
    """CPU seconds since it started; resident bytes; bytes that came and went over all networks of its machine but the loopback's."""

    cpu_s: float
    memory_bytes: int
    received_bytes: int
    sent_bytes: int


def used_by(pid: int, *, proc: Path = Path("/proc")) -> Used:
    """What a process and its descendants use. Raises OSError where there is no such process any more."""
    family = _family(pid, proc)
    if pid not in family:
        raise ProcessLookupError(pid)
    received, sent = _network((proc / str(pid) / "net" / "dev").read_text())
    memory = sum(_resident(member, proc, whole=member == pid) for member in family)
    return Used(sum(family.values()), memory, received, sent)


def _family(pid: int, proc: Path) -> dict[int, float]:
    """The process and its descendants, with the CPU seconds of each and of those of its children that have ended."""
    parents, seconds = dict[int, int](), dict[int, float]()
    for entry in proc.iterdir():
        if entry.name.isdigit() and (fields := _stat(entry)):
            member = int(entry.name)
            parents[member], seconds[member] = int(fields[1]), sum(map(int, fields[11:15])) / _TICKS
    return {member: cpu_s for member, cpu_s in seconds.items() if _descends(member, pid, parents)}


def _descends(member: int, pid: int, parents: dict[int, int]) -> bool:
    for _ in range(len(parents)):
        if member == pid:
            return True
        if member not in parents:
            return False
        member = parents[member]
    return False


def _stat(folder: Path) -> list[str]:
    """Fields of /proc/PID/stat from the state on; none where the process has just gone."""
    try:
        # a process's name may be any bytes, and is cut off in the midst of a character
        return (folder / "stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return []


def _resident(pid: int, proc: Path, *, whole: bool) -> int:
    """Resident bytes; of a descendant without what it shares with others."""
    try:
        _, resident, shared, *_ = (proc / str(pid) / "statm").read_text().split()
    except (OSError, ValueError):
        return 0
    return (int(resident) - (0 if whole else int(shared))) * _PAGE


def _network(text: str) -> tuple[int, int]:
    """Bytes received and sent, of /proc/PID/net/dev."""
    received = sent = 0
    for line in text.splitlines()[2:]:
        name, _, rest = line.partition(":")
        fields = rest.split()
        if name.strip() != "lo" and len(fields) > 8:
            received, sent = received + int(fields[0]), sent + int(fields[8])
    return received, sent
