"""A test that fails is told of, whatever it leaves or has raised: the run of all others goes on (tests/conftest.py)."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

_FAILING = '''
import ast
import contextlib

import pytest


class Parses:
    """Garbage whose finalizer parses Python."""

    def __init__(self):
        self.itself = self

    def __del__(self):
        with contextlib.suppress(SystemError):
            ast.parse("x = 1")


@pytest.mark.parametrize("k", range(20))
def test_that_leaves_what_parses(k):
    for _ in range(500):
        Parses()
    raise ValueError(k)


def test_that_raises_half_a_pair():
    raise ValueError("\\ud800")


def test_that_prints_half_a_pair():
    print("\\ud800")
    assert 0, "\\udc80"
'''


@pytest.mark.process
def test_a_failure_ends_no_worker(tmp_path: Path) -> None:
    shutil.copy(Path(__file__).parents[1] / "conftest.py", tmp_path)
    (tmp_path / "test_failing.py").write_text(_FAILING + "\n" * 3 + "".join(f"x{k} = [{k}]\n" for k in range(2000)))
    command = (sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-n", "1", "-q", "--rootdir", str(tmp_path))
    done = subprocess.run((*command, str(tmp_path)), cwd=tmp_path, capture_output=True, text=True, timeout=360)
    assert "INTERNALERROR" not in done.stdout + done.stderr
    assert done.stdout.splitlines()[-1].startswith("22 failed"), done.stdout[-2000:]
