"""Which tests pytest-xdist runs one after the other, by file. Its own groups need a pytest before 9.2: since then they are no groups."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import pytest

__all__ = ["FOLDERS", "row_of", "scheduler"]

# Their processes share the machine's cores already; many such tests at a time would only wait for each other.
FOLDERS = {"actors", "check", "domains", "examples"}

_HERE = Path(__file__).parent


@functools.cache
def row_of(path: Path) -> str | None:
    """Return the row that a file's tests run in, one after the other; None: they run beside all."""
    folder = path.relative_to(_HERE).parts[0]
    source = path.read_text()
    if "pytest.mark.ray" in source:
        return "domains" if folder == "domains" else "clusters"
    return "processes" if folder in FOLDERS or "pytest.mark.slow" in source else None


def scheduler(config: pytest.Config, log: Any) -> Any:
    """Return what gives a row to one worker, and tests of no row one by one to whoever is idle."""
    # on the oldest Python that the base package promises there is no xdist
    from xdist.scheduler.loadscope import LoadScopeScheduling

    class Rows(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return row_of(config.rootpath / nodeid.partition("::")[0]) or nodeid

    return Rows(config, log)
