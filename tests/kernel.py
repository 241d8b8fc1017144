"""What tests ask of the kernel as root: a control group with a memory limit, a network of one's own."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
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
