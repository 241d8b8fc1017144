from __future__ import annotations

from collections.abc import Iterator

import pytest

from ..actors.harness import staged
from .world import STEPS


@pytest.fixture(scope="session")
def undisturbed() -> Iterator[list[bytes]]:
    """The ledger of one trainer that nothing happens to, without Ray."""
    with staged() as stage:
        yield stage.run(trainers=1, config={"steps": STEPS}).ledger
