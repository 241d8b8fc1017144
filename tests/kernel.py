"""What tests ask of the kernel as root: a control group with a memory limit, a network of one's own."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path

import pytest


def forbidden(what: str) -> None:
    """Skip a test that this machine cannot run; in CI nothing may be skipped, so fail there."""
    if os.environ.get("SUREFOOT_CI"):
        pytest.fail(what)
    pytest.skip(what)


def do(*command: object) -> str:
    """Run a command of the system's, to its end."""
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False)
    if done.returncode:
        raise OSError(f"{' '.join(map(str, command))}: {done.stderr.strip()}")
    return done.stdout


@contextmanager
def memory_limit(num_bytes: int) -> Iterator[Path]:
    """A control group with a limit, of either version; a process enters by writing its pid to the file that is yielded."""
    old, new = Path("/sys/fs/cgroup/memory"), Path("/sys/fs/cgroup")
    root, name = (old, "memory.limit_in_bytes") if old.is_dir() else (new, "memory.max")
    group = root / f"surefoot-test-{os.getpid()}"
    try:
        group.mkdir()
        (group / name).write_text(str(num_bytes))
    except OSError as error:
        forbidden(f"no control group with a memory limit can be made here: {error}")
    try:
        yield group / "cgroup.procs"
    finally:
        deadline = time.monotonic() + 10.0
        while (group / "cgroup.procs").read_text() and time.monotonic() < deadline:
            time.sleep(0.01)  # the kernel tells no event
        group.rmdir()


@dataclass(frozen=True, slots=True)
class Network:
    """A network of its own beside this machine's, and the one wire between them."""

    name: str
    # of whoever is in it
    address: str

    @property
    def inside(self) -> tuple[str, ...]:
        """What a command begins with that runs in it."""
        return ("ip", "netns", "exec", self.name)

    @contextmanager
    def cut(self) -> Iterator[None]:
        """Let nothing through for the duration, either way. Nothing is told to either end: no connection is reset."""
        do("ip", "link", "set", f"{self.name}-h", "down")
        try:
            yield
        finally:
            do("ip", "link", "set", f"{self.name}-h", "up")


@contextmanager
def network() -> Iterator[Network]:
    """Make a network namespace that reaches this machine by a wire."""
    name = f"sf{os.getpid()}"
    # of the 16384 blocks of four addresses in 10.213.0.0/16 the one of this process
    here = IPv4Address("10.213.0.0") + 4 * (os.getpid() % 2**14) + 1
    there = here + 1
    try:
        do("ip", "netns", "add", name)
    except OSError as error:
        forbidden(f"no network namespace can be made here: {error}")
    try:
        do("ip", "link", "add", f"{name}-h", "type", "veth", "peer", "name", "wire", "netns", name)
        do("ip", "address", "add", f"{here}/30", "dev", f"{name}-h")
        do("ip", "link", "set", f"{name}-h", "up")
        for words in (
            ["link", "set", "lo", "up"],
            ["address", "add", f"{there}/30", "dev", "wire"],
            ["link", "set", "wire", "up"],
            ["route", "add", "default", "via", here],
        ):
            do("ip", "-n", name, *words)
        yield Network(name, str(there))
    finally:
        do("ip", "netns", "delete", name)  # and the wire with it
