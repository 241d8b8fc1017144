"""What tests of the files in `run.output_dir` share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from .elected import Elect, Elected


@pytest.fixture
def elected(tmp_path: Path) -> Iterator[Elect]:
    made: list[Elected] = []

    def make(trainer: str = "t0", generation: int = 1, most: int = 2**40, place: Path | None = None) -> Elected:
        made.append(Elected(place or tmp_path / "job", trainer, generation, most))
        return made[-1]

    yield make
    for one in made:
        one.sync.close()
