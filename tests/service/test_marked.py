"""The processes of a head, found by their mark, are seen to their ends."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys

from surefoot_service.cluster.processes import MARK, end_marked, kill_marked, marked

LIMIT_S = 180.0


def started(mark: str, code: str) -> subprocess.Popen[str]:
    """A process that carries the mark, once it has said something."""
    command = [sys.executable, "-c", code]
    process = subprocess.Popen(command, env={**os.environ, MARK: mark}, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline()
    return process


WAITS = "print('well', flush=True); import time; time.sleep(600)"
TELLS = f"import signal, sys; signal.signal(signal.SIGTERM, lambda *_: sys.exit(print('was told'))); {WAITS}"
DEAF = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {WAITS}"


def test_who_would_go_on_for_long_is_told_to_end_before_it_is_killed() -> None:
    """As a trainer's collector, whose lines nobody takes any more: it is not waited for till the time is over."""
    mark = secrets.token_hex(8)
    with started(mark, TELLS) as process:
        assert [found.pid for found in marked(mark)] == [process.pid]
        end_marked(mark, LIMIT_S)
        assert marked(mark) == []
        assert process.stdout is not None
        assert process.stdout.read() == "was told\n"


def test_who_does_not_obey_is_killed() -> None:
    mark = secrets.token_hex(8)
    with started(mark, DEAF) as process:
        end_marked(mark, 1.0)
        assert [found.pid for found in marked(mark)] == [process.pid]
        assert kill_marked(mark) == []
        assert marked(mark) == []
