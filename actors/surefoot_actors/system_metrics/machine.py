"""What a process may use, and what is in use where it runs: of its container where that is bounded, else of the machine."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

__all__ = ["Machine", "Memory"]

_KIB = 1024


class Memory(NamedTuple):
    """Bytes in use, without what the kernel only keeps for reading again, and how many there may be."""

    used: int
    limit: int


class Machine:
    """The machine or container of one process."""

    def __init__(self, pid: int, *, proc: Path = Path("/proc"), cgroups: Path = Path("/sys/fs/cgroup")) -> None:
        self._pid, self._proc = pid, proc
        paths = dict(_controllers(_text(proc / str(pid) / "cgroup")))
        self._memory = _Version2(cgroups, paths.get("", "/")) if _is_v2(cgroups) else _Version1(cgroups, paths)

    def memory(self) -> Memory | None:
        """Of the tightest bound on its memory: a container's, or else the machine's. None: that cannot be told here."""
        found = [memory for memory in (*self._memory.memories(), self._of_all()) if memory is not None]
        return min(found, key=lambda memory: memory.limit, default=None)

    def cpus(self) -> float:
        """How many CPUs it may use."""
        try:
            allowed = len(os.sched_getaffinity(self._pid))
        except OSError:
            allowed = os.cpu_count() or 1
        return min([float(allowed), *self._memory.cpus()])

    def _of_all(self) -> Memory | None:
        lines = (line.split() for line in _text(self._proc / "meminfo").splitlines())
        told = {words[0]: int(words[1]) * _KIB for words in lines if len(words) > 1 and words[1].isdigit()}
        total, free = told.get("MemTotal:"), told.get("MemAvailable:")
        return None if total is None or free is None else Memory(max(0, total - free), total)


class _Version2:
    def __init__(self, root: Path, path: str) -> None:
        self._folders = list(_upwards(root, path))

    def memories(self) -> Iterator[Memory | None]:
        for folder in self._folders:
            limit, used = _number(folder / "memory.max"), _number(folder / "memory.current")
            yield _memory(limit, used, _stat(folder / "memory.stat", "inactive_file"))

    def cpus(self) -> Iterator[float]:
        for folder in self._folders:
            words = _text(folder / "cpu.max").split()
            if len(words) == 2 and words[0].isdigit() and int(words[1]):
                yield int(words[0]) / int(words[1])


class _Version1:
    def __init__(self, root: Path, paths: dict[str, str]) -> None:
        self._memory = list(_upwards(root / "memory", paths.get("memory", "/")))
        self._cpu = list(_upwards(root / "cpu", paths.get("cpu", "/")))

    def memories(self) -> Iterator[Memory | None]:
        for folder in self._memory:
            limit, used = _number(folder / "memory.limit_in_bytes"), _number(folder / "memory.usage_in_bytes")
            yield _memory(limit, used, _stat(folder / "memory.stat", "total_inactive_file"))

    def cpus(self) -> Iterator[float]:
        for folder in self._cpu:
            quota, period = _number(folder / "cpu.cfs_quota_us"), _number(folder / "cpu.cfs_period_us")
            if quota and period:
                yield quota / period


def _is_v2(cgroups: Path) -> bool:
    return (cgroups / "cgroup.controllers").exists()


def _controllers(text: str) -> Iterator[tuple[str, str]]:
    """Each controller's path, of /proc/PID/cgroup; the one of version 2 has no name."""
    for line in text.splitlines():
        _, names, path = line.split(":", 2)
        for name in names.split(","):
            yield name, path


def _upwards(root: Path, path: str) -> Iterator[Path]:
    """The folder and those above it, up to the root. In a container the path may be the host's, of which only the root is to be seen."""
    parts = [part for part in path.split("/") if part and part != ".."]
    for count in range(len(parts), -1, -1):
        folder = root.joinpath(*parts[:count])
        if folder.is_dir():
            yield folder


def _memory(limit: int | None, used: int | None, reclaimable: int) -> Memory | None:
    return None if not limit or used is None else Memory(max(0, used - reclaimable), limit)


def _stat(path: Path, name: str) -> int:
    words = (line.split() for line in _text(path).splitlines())
    return next((int(value) for key, value in (w for w in words if len(w) == 2) if key == name), 0)


def _number(path: Path) -> int | None:
    """A file's number; None where it is none: "max", or -1."""
    text = _text(path).strip()
    return int(text) if text.isdigit() else None


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
