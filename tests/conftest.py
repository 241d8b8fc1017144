"""Which tests run beside others: those that start processes of their own run one after the other, in one worker of pytest-xdist."""

from __future__ import annotations

from pathlib import Path

import pytest

# Their processes share the machine's cores already; two such tests at a time would only wait for each other.
_FOLDERS = {"actors", "check", "domains", "examples"}
_MARKS = ("slow", "ray")


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        folder = item.path.relative_to(here).parts[0]
        if folder in _FOLDERS or any(item.get_closest_marker(mark) for mark in _MARKS):
            item.add_marker(pytest.mark.xdist_group("processes"))
