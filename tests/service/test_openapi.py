"""The surface, pinned: a change of it is a change of openapi.json. And the document keeps its word under fire."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from fastapi import FastAPI
from hypothesis import HealthCheck, Phase
from hypothesis import settings as hypothesis_settings

from surefoot_service.app import create_app, open_service
from surefoot_service.settings import Settings

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


# Made at import, as tests are made of its operations; what it serves from is opened by the fixture. Its lifespan is run once for that,
# in a folder of its own.
_FOLDER = tempfile.TemporaryDirectory(prefix="surefoot-openapi-", ignore_cleanup_errors=True)
APP = create_app(Settings(data=Path(_FOLDER.name)))
schema = schemathesis.openapi.from_asgi("/openapi.json", APP)


@pytest.fixture(scope="module")
def token(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    service = open_service(Settings(data=tmp_path_factory.mktemp("fire")))
    APP.state.service = service
    yield (service.settings.data / "token").read_text().strip()
    service.database.close()


# uploads have tests of their own: random bytes are no zip
@schema.exclude(path="/v1/packages", method="POST").parametrize()
@hypothesis_settings(
    max_examples=10,
    deadline=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
    derandomize=True,
    database=None,
)
def test_no_request_breaks_it(case: Any, token: str) -> None:
    if case.path.endswith("/commands"):
        case.query = {**(case.query or {}), "wait_s": 0}
    excluded = [schemathesis.checks.CHECKS.get_one("allow_header_conformance")]
    if case.method.upper() == "POST":
        # a spec has rules between its fields, which the document cannot say
        excluded.append(schemathesis.checks.CHECKS.get_one("positive_data_acceptance"))
    case.call_and_validate(headers={"Authorization": f"Bearer {token}"}, excluded_checks=excluded)
