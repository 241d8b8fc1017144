"""The surface, pinned: a change of it is a change of openapi.json."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from jsonschema_rs import Draft202012Validator
from pydantic import ValidationError

from surefoot.events import EventKind, UplinkBatch
from surefoot.views import EventPage
from surefoot_service.rest.app import create_app
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


@pytest.fixture(scope="module")
def schemas() -> dict[str, Any]:
    return create_app(Settings()).openapi()["components"]["schemas"]  # type: ignore[no-any-return]


def _properties(place: str, value: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield every property, wherever in a schema, with its name."""
    if isinstance(value, list):
        for each in value:
            yield from _properties(place, each)
    elif isinstance(value, dict):
        for name, each in value.get("properties", {}).items():
            yield f"{place}.{name}", each
        for name, each in value.items():
            yield from _properties(f"{place}.{name}", each)


def test_every_schema_and_every_property_has_a_description(schemas: dict[str, Any]) -> None:
    assert [name for name, schema in schemas.items() if not schema.get("description")] == []
    found = dict(_properties("", schemas))
    assert len(found) > 300
    assert [name for name, each in found.items() if not each.get("description")] == []


def test_every_parameter_and_every_operation_has_a_description(app: FastAPI) -> None:
    for path, methods in app.openapi()["paths"].items():
        for method, operation in methods.items():
            assert operation.get("description"), (path, method)
            for parameter in operation.get("parameters", ()):
                assert parameter.get("description"), (path, method, parameter["name"])


@pytest.mark.parametrize("kind", EventKind)
def test_every_kind_of_event_has_a_schema_of_its_own_told_and_read(schemas: dict[str, Any], kind: EventKind) -> None:
    told = schemas["UplinkBatch"]["properties"]["events"]["items"]
    for union, parts in ((told, told["oneOf"]), (schemas["NumberedEvent"], schemas["NumberedEvent"]["anyOf"])):
        assert union["discriminator"]["propertyName"] == "kind"
        assert set(union["discriminator"]["mapping"]) == set(EventKind)
        reference = union["discriminator"]["mapping"][kind]
        assert {"$ref": reference} in parts
        event = schemas[reference.rpartition("/")[2]]
        assert event["properties"]["kind"]["const"] == kind
        payload = schemas[event["properties"]["data"]["$ref"].rpartition("/")[2]]
        assert payload["properties"]


EVENT = {"source": "trainer", "n": 1, "at": "2026-01-01T00:00:00Z"}


@pytest.mark.parametrize(
    ("kind", "data"),
    [
        *((kind, {}) for kind in EventKind),
        (EventKind.STATE, {"state": "running"}),
        (EventKind.STATE, {"state": "queued"}),
        (EventKind.STATE, {"state": "running", "reason": None, "later": [1, {"a": 2}]}),
        (EventKind.GENERATION, {"generation": 1, "trainers": ["t1", "t2"]}),
        (EventKind.GENERATION, {"generation": 1, "trainers": 2}),
        (EventKind.GENERATION, {"generation": -1}),
        (EventKind.CHECKPOINT, {"url": "/a/checkpoint", "model": ""}),
        (EventKind.CHECKPOINT, {"url": ""}),
        (EventKind.FINISHED, {"digest": "ab", "steps": 3}),
        (EventKind.RECOVERED, {"seconds": "soon"}),
        ("of_a_newer_version", {"any": ["thing"]}),
        ("No Kind", {}),
    ],
)
def test_the_document_says_what_the_door_takes(schemas: dict[str, Any], kind: str, data: dict[str, Any]) -> None:
    """A validator of the document, and the model at the door, agree on every event."""
    event = EVENT | {"kind": str(kind), "data": data}
    schema = {"$ref": "#/components/schemas/UplinkBatch", "components": {"schemas": schemas}}
    try:
        UplinkBatch.model_validate_json(json.dumps({"events": [event]}))
        taken = True
    except ValidationError:
        taken = False
    assert Draft202012Validator(schema).is_valid({"events": [event]}) == taken


@pytest.mark.parametrize("kind", [*EventKind, "of_a_newer_version"])
@pytest.mark.parametrize("data", [{}, {"state": "queued", "reason": ""}, {"unreadable": "it is no JSON"}])
def test_the_document_says_what_is_answered(schemas: dict[str, Any], kind: str, data: dict[str, Any]) -> None:
    event = EVENT | {"kind": str(kind), "data": data, "seq": 7}
    page = EventPage.model_validate({"events": [event]}).model_dump(mode="json")
    schema = {"$ref": "#/components/schemas/EventPage", "components": {"schemas": schemas}}
    Draft202012Validator(schema).validate(page)
