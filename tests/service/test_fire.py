"""Generated requests against a real control plane, the same in every run; `make fuzz` goes on for an hour with others."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from .fire import Plane, Round, control_plane, fire

pytestmark = pytest.mark.slow

SEED = 20261126
EXAMPLES = 3


@pytest.fixture(scope="module")
def plane() -> Iterator[Plane]:
    with control_plane() as made:
        yield made


@pytest.mark.parametrize(("identity", "known"), [("nobody", False), ("attempt", True), ("user", True)])
@pytest.mark.timeout(900)
def test_every_answer_is_one_that_the_document_names(plane: Plane, identity: str, known: bool) -> None:
    done = fire(plane, Round(identity=identity, known=known, seed=SEED, seconds=None, examples=EXAMPLES))
    assert done.returncode == 0, done.stdout
