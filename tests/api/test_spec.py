"""What a job's spec refuses, beside what its types say."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from surefoot.spec import JobSpec


def spec(**fields: object) -> JobSpec:
    return JobSpec.model_validate({"entrypoint": "a:b", "package": "0" * 64, "batch_size": 8, **fields})


@pytest.mark.parametrize("requirement", ["", "  ", "\t", "einops\ntimm"])
def test_a_requirement_says_something(requirement: str) -> None:
    with pytest.raises(ValidationError, match="is no pip requirement"):
        spec(pip=["einops", requirement])


def test_requirements_are_taken_without_their_blanks() -> None:
    assert spec(pip=[" einops ", "timm==1.0"]).pip == ("einops", "timm==1.0")
