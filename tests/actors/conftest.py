from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from surefoot_actors.uplink.http import HttpUplink

from .harness import Stage, Story, staged
from .uplink_plane import ControlPlane, uplink_to


@pytest.fixture(scope="session")
def stage() -> Iterator[Stage]:
    """Where attempts are run; one template process for all of them."""
    with staged() as made:
        yield made


@pytest.fixture(scope="session")
def undisturbed(stage: Stage) -> Story:
    """The run that every disturbed one must equal."""
    return stage.run(trainers=1)


@pytest.fixture
def plane() -> ControlPlane:
    return ControlPlane()


@pytest.fixture
async def uplink(plane: ControlPlane) -> AsyncIterator[HttpUplink]:
    uplink = uplink_to(plane)
    yield uplink
    await uplink.close()
