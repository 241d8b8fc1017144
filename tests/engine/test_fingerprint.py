"""What must be equal on every trainer is told in plain values."""

from __future__ import annotations

import pickle
import subprocess
import sys

import pytest
import torch

from surefoot_actors.determinism.fingerprint import fingerprint


@pytest.mark.process
def test_reading_it_does_not_import_torch() -> None:
    """A restarted supervisor reads it while trainers wait: torch's own class of version would cost them a second."""
    data = pickle.dumps(fingerprint(torch.device("cpu"), 1))
    code = "import pickle, sys; pickle.loads(sys.stdin.buffer.read()); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], input=data, check=False).returncode == 0
