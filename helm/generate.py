"""Write what is made of values/: the chart's values.yaml, values.schema.json, and the table in its README.

python helm/generate.py            write them
python helm/generate.py --check    say what differs, and fail
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel
from values import Values

CHART = Path(__file__).parent / "surefoot"
_BEGIN, _END = "<!-- values: made by helm/generate.py -->", "<!-- end of values -->"
_WIDTH = 116


def main() -> int:
    made = {
        CHART / "values.yaml": values_yaml(),
        CHART / "values.schema.json": schema_json(),
        CHART / "README.md": readme(),
    }
    differing = [path for path, text in made.items() if not path.exists() or path.read_text() != text]
    if "--check" not in sys.argv[1:]:
        for path in differing:
            path.write_text(made[path])
        return 0
    for path in differing:
        sys.stderr.write(f"{path} is not what helm/values/ says: run python helm/generate.py\n")
    return bool(differing)


def values_yaml() -> str:
    head = "# Made of helm/values/ by helm/generate.py: change it there.\n"
    return head + "\n".join(_lines(Values(), "")) + "\n"


def _lines(model: BaseModel, indent: str) -> Iterator[str]:
    """The model as YAML, with each field's description above it."""
    for name, field in type(model).model_fields.items():
        found = getattr(model, name)
        if not indent:
            yield ""
        yield from _comment(field.description or "", indent)
        yield from _entry(name, found, indent)


def _entry(name: str, found: Any, indent: str) -> Iterator[str]:
    if isinstance(found, BaseModel):
        yield f"{indent}{name}:"
        yield from _lines(found, indent + "  ")
    elif isinstance(found, dict) and any(isinstance(one, BaseModel) for one in found.values()):
        yield f"{indent}{name}:"
        for key, one in found.items():
            yield from _entry(key, one, indent + "  ")
    else:
        text = yaml.safe_dump({name: found}, sort_keys=False, width=1000)
        yield from (indent + line for line in text.splitlines())


def _comment(text: str, indent: str) -> Iterator[str]:
    line = f"{indent}#"
    for word in text.split():
        if len(line) + len(word) + 1 > _WIDTH:
            yield line
            line = f"{indent}#"
        line += f" {word}"
    yield line


def schema_json() -> str:
    """JSON Schema, draft 7: the newest that every Helm 3 and 4 reads."""
    schema = Values.model_json_schema(ref_template="#/definitions/{model}")
    schema["definitions"] = schema.pop("$defs")
    schema["$schema"] = "http://json-schema.org/draft-07/schema#"
    # Helm itself hands this to a chart that is part of another one
    schema["properties"]["global"] = {"type": "object"}
    return json.dumps(_plain(schema), indent=2, sort_keys=True) + "\n"


def _plain(schema: Any) -> Any:
    """Without what Python's classes say of themselves, and what stands beside a reference, which draft 7 does not see."""
    if isinstance(schema, list):
        return [_plain(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    kept = {
        k: v
        for k, v in schema.items()
        if not (k in ("title", "default") and not isinstance(v, dict)) or k == "properties"
    }
    kept = {k: v for k, v in kept.items() if k != "default" or "type" in v}
    if "properties" in schema:
        kept["properties"] = {name: _plain(one) for name, one in schema["properties"].items()}
    if "patternProperties" in kept:
        kept["additionalProperties"] = False
    if "$ref" in kept:
        return {"$ref": kept["$ref"]}
    return {k: v if k == "properties" else _plain(v) for k, v in kept.items()}


def readme() -> str:
    path = CHART / "README.md"
    before, _, rest = path.read_text().partition(_BEGIN)
    after = rest.partition(_END)[2]
    rows = ["| Value | Default | |", "| --- | --- | --- |", *_rows(Values(), "")]
    return f"{before}{_BEGIN}\n\n" + "\n".join(rows) + f"\n\n{_END}{after}"


def _rows(model: BaseModel, prefix: str) -> Iterator[str]:
    for name, field in type(model).model_fields.items():
        found, path = getattr(model, name), f"{prefix}{name}"
        if isinstance(found, BaseModel):
            yield from _rows(found, f"{path}.")
        elif isinstance(found, dict) and any(isinstance(one, BaseModel) for one in found.values()):
            yield f"| `{path}` | `{', '.join(found)}` | {_cell(field.description)} |"
            first = next(iter(found.values()))
            if len({type(one) for one in found.values()}) == 1:
                yield from _rows(type(first)(), f"{path}.NAME.")
        else:
            yield f"| `{path}` | `{_default(found)}` | {_cell(field.description)} |"


def _default(found: Any) -> str:
    text = json.dumps(found, ensure_ascii=False)
    return text if len(text) <= 60 else "see values.yaml"


def _cell(text: str | None) -> str:
    return (text or "").replace("|", "\\|")


if __name__ == "__main__":
    sys.exit(main())
