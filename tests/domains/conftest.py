from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from ..actors.harness import Stage
from .world import STEPS


@pytest.fixture(scope="session")
def undisturbed() -> Iterator[list[bytes]]:
    """The ledger of one trainer that nothing happens to, without Ray."""
    with tempfile.TemporaryDirectory(prefix="sf-") as folder:
        stage = Stage(Path(folder))
        try:
            yield stage.run(trainers=1, config={"steps": STEPS}).ledger
        finally:
            stage.close()
