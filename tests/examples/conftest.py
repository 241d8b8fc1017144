"""The examples are imported as trainers do: each folder is a root of its own, so two of them have a module `train`."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"

ImportExample = Callable[[str, str], ModuleType]


@pytest.fixture
def import_example(monkeypatch: pytest.MonkeyPatch) -> ImportExample:
    """Return a function that imports a module of an example's folder ("." for the demo), forgotten after the test."""

    def load(folder: str, name: str) -> ModuleType:
        for module in ("train", "model", "data", "demo", "before", "make_data"):
            monkeypatch.delitem(sys.modules, module, raising=False)
        monkeypatch.syspath_prepend(str(EXAMPLES / folder))
        return importlib.import_module(name)

    return load
