"""Specs as they are stored, read once each."""

from __future__ import annotations

from functools import lru_cache

from surefoot.spec import JobSpec

__all__ = ["spec_json", "spec_read"]


@lru_cache(maxsize=4096)
def spec_read(text: str) -> JobSpec:
    return JobSpec.model_validate_json(text)


@lru_cache(maxsize=4096)
def spec_json(text: str) -> bytes | None:
    return spec_read(text).model_dump_json().encode()
