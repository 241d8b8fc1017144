from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from .harness import Stage, Story


@pytest.fixture(scope="session")
def stage() -> Iterator[Stage]:
    """Where attempts are run; one template process for all of them."""
    folder = Path(tempfile.mkdtemp(prefix="sf-"))
    made = Stage(folder)
    try:
        yield made
    finally:
        made.close()
        shutil.rmtree(folder)


@pytest.fixture(scope="session")
def undisturbed(stage: Stage) -> Story:
    """The run that every disturbed one must equal."""
    return stage.run(trainers=1)
