"""The surface, pinned: a change of it is a change of openapi.json."""

from __future__ import annotations

import json
import os
from pathlib import Path

from fastapi import FastAPI

SNAPSHOT = Path(__file__).with_name("openapi.json")


def test_the_surface_is_the_pinned_one(app: FastAPI) -> None:
    """Set SUREFOOT_PIN=1 to pin another one, and look at what changed."""
    found = json.dumps(app.openapi(), indent=1, sort_keys=True) + "\n"
    if os.environ.get("SUREFOOT_PIN"):
        SNAPSHOT.write_text(found)
    assert json.loads(found) == json.loads(SNAPSHOT.read_text())


def test_every_problem_is_documented_as_one(app: FastAPI) -> None:
    for path, methods in app.openapi()["paths"].items():
        for method, operation in methods.items():
            for status, answer in operation["responses"].items():
                if int(status) >= 400:
                    assert list(answer["content"]) == ["application/problem+json"], (path, method, status)
            assert {"422", "500"} <= set(operation["responses"]), (path, method)
