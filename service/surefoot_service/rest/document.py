"""The OpenAPI document: FastAPI's, with problems as we tell them, and events by their kind."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from surefoot.views import NotReady, Problem

__all__ = ["document_of"]

_REF = "#/components/schemas/"


def document_of(app: FastAPI) -> dict[str, Any]:
    """Make the document of an app's routes."""
    document = get_openapi(title=app.title, version=app.version, routes=app.routes)
    schemas = document["components"]["schemas"]
    _add_problems(schemas)
    _tell_kinds_apart(schemas)
    schemas["JsonValue"]["description"] = "Any JSON."
    return document


def _add_problems(schemas: dict[str, Any]) -> None:
    """Put our problems in the place of FastAPI's own validation error."""
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    for model in (Problem, NotReady):
        schema = model.model_json_schema(ref_template=f"{_REF}{{model}}", mode="serialization")
        schemas.update(schema.pop("$defs"))
        schemas[model.__name__] = schema


def _tell_kinds_apart(schemas: dict[str, Any]) -> None:
    """Make events discriminated unions, by kind: those that an attempt tells, and those that are read.

    What is read has the same data, but for two things: the control plane tells of states that no attempt can, and an event that an
    older version has stored, or a newer one, may have any data. The model that reads it is lenient, so it knows nothing of the kinds.
    """
    told = schemas["UplinkBatch"]["properties"]["events"]["items"]
    read = [_read_event(schemas, _name(part)) for part in told["oneOf"]]
    told["discriminator"] = _by_kind(schemas, told["oneOf"])
    schemas["NumberedEvent"] = {
        "title": "NumberedEvent",
        "description": schemas["NumberedEvent"]["description"],
        "anyOf": read,
        "discriminator": _by_kind(schemas, read),
    }


def _read_event(schemas: dict[str, Any], told: str) -> dict[str, str]:
    """Add the schema of an event that is read, after that of one that is told. Return a reference to it."""
    numbered, by_kind = schemas["NumberedEvent"], schemas[told]["properties"]
    name = f"{told.removesuffix('Told')}Event"
    schemas[name] = numbered | {"title": name, "description": schemas[told]["description"]}
    if "const" in by_kind["kind"]:
        schemas[name]["required"] = [*numbered["required"], "data"]
        schemas[name]["properties"] = numbered["properties"] | {"kind": by_kind["kind"], "data": by_kind["data"]}
    else:
        schemas[name]["description"] = (
            "An event of a kind, or with data, that this version does not know: another one stored it."
        )
    if name == "StateEvent":
        state = schemas["StateData"]
        known = state["properties"] | {"state": _with_reference(state["properties"]["state"], "JobState")}
        schemas["StateShown"] = state | {"title": "StateShown", "properties": known}
        schemas[name]["properties"]["data"] = _with_reference(by_kind["data"], "StateShown")
    return {"$ref": f"{_REF}{name}"}


def _with_reference(schema: dict[str, Any], name: str) -> dict[str, Any]:
    return {"$ref": f"{_REF}{name}", "description": schema["description"]}


def _by_kind(schemas: dict[str, Any], parts: list[dict[str, str]]) -> dict[str, Any]:
    kinds = {_name(part): schemas[_name(part)]["properties"]["kind"].get("const") for part in parts}
    return {"propertyName": "kind", "mapping": {kind: f"{_REF}{name}" for name, kind in kinds.items() if kind}}


def _name(reference: dict[str, str]) -> str:
    return reference["$ref"].removeprefix(_REF)
