"""A job as a file: the fields of a spec, and where its code is. Its schema is published for editors (`surefoot schema`)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from surefoot.config import near
from surefoot.config_files import read_file
from surefoot.data import found_here
from surefoot.errors import SpecError
from surefoot.spec import JobSpec, Resources

__all__ = ["job_schema", "read_job"]

# of the spec, what nobody writes: it is made of the code
_MADE = ("package", "left_out", "resources")
_FOLDER = {
    "type": "string",
    "default": ".",
    "description": "The folder to package, relative to this file: the entrypoint's module is importable from it.",
}
_SECRETS = {
    "anyOf": [
        {"type": "array", "items": {"type": "string"}},
        {"type": "object", "additionalProperties": {"type": "string"}},
    ],
    "description": 'Secrets that the code finds in its environment: "NAME" or "NAME=VARIABLE" one by one, or variables with names.',
}
_DATA = {
    "type": "object",
    "additionalProperties": {"anyOf": [{"type": "string"}, {"$ref": "#/$defs/DataSource"}]},
    "description": 'Data that the train function finds as `run.data["NAME"]`: its URL, or where it lies and whether nodes copy it.',
}


def job_schema() -> dict[str, Any]:
    """Return the JSON schema of a job's file."""
    schema = JobSpec.model_json_schema()
    fields = {name: field for name, field in schema["properties"].items() if name not in _MADE}
    resources = Resources.model_json_schema()["properties"]
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "A Surefoot job",
        "description": "What `surefoot submit job.yaml` takes.",
        "type": "object",
        "additionalProperties": False,
        "required": ["entrypoint", "batch_size"],
        "properties": fields | resources | {"folder": _FOLDER, "secrets": _SECRETS, "data": _DATA},
        "$defs": {name: each for name, each in schema.get("$defs", {}).items() if name != "Resources"},
    }


def read_job(file: Path) -> tuple[str, dict[str, Any]]:
    """Return the entrypoint and the options of `submit` that a job's file says. Raises UserError, SpecError."""
    found = read_file(file, "the job")
    known = job_schema()["properties"]
    if unknown := [name for name in found if name not in known]:
        raise SpecError(f"{file}: a job has no {unknown[0]!r}{near(unknown[0], known)}")
    for name in ("entrypoint", "batch_size"):
        if found.get(name) is None:
            raise SpecError(f"{file}: {name} is missing")
    entrypoint = found.pop("entrypoint")
    found["folder"] = file.parent / str(found.get("folder") or ".")
    if "data" in found:
        found["data"] = found_here(found["data"], file.parent)
    return str(entrypoint), found
